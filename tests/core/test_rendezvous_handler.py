"""The rendezvous as torchrun uses it: the unit rule holds there too."""

import threading
import time

import pytest
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from pangu_core.rendezvous import store
from pangu_core.rendezvous.membership import Timing


class Node(threading.Thread):
    """One torchrun agent's calls, each round noted."""

    def __init__(self, port):
        super().__init__(daemon=True)
        endpoint, run_id = f"127.0.0.1:{port}", "t"
        parameters = RendezvousParameters(
            "pangu", endpoint, run_id, 2, 4, local_addr="127.0.0.1", unit="2"
        )
        self.handler, self.info, self.closed = get_rendezvous_handler(parameters), None, False

    def run(self):
        try:
            self.info = self.handler.next_rendezvous()
        except RendezvousClosedError:
            self.closed = True


def wait_for(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parallel
def test_rounds_are_whole_units_and_the_surplus_waits_until_the_end():
    with store.in_thread(Timing(quiet=0.5)) as port:
        nodes = [Node(port) for _ in range(3)]
        for node in nodes:
            node.start()
        wait_for(lambda: sum(n.info is not None for n in nodes) == 2)
        inside = [n for n in nodes if n.info]
        assert sorted(n.info.rank for n in inside) == [0, 1]
        assert {n.info.world_size for n in inside} == {2}
        masters = {n.info.bootstrap_store_info.master_port for n in inside}
        assert len(masters) == 1
        assert [n.handler.num_nodes_waiting() for n in inside] == [0, 0]
        for node in inside:
            assert node.handler.shutdown()
        (surplus,) = [n for n in nodes if not n.info]
        wait_for(lambda: surplus.closed)
        surplus.handler.shutdown()
