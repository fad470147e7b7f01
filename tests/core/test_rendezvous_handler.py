"""The rendezvous as torchrun uses it: the unit rule holds there too."""

import threading
import time

import pytest
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from pangu_core.rendezvous import handler, store
from pangu_core.rendezvous.client import Client
from pangu_core.rendezvous.membership import Timing
from pangu_core.rendezvous.ports import free_port
from pangu_core.rendezvous.protocol import Beat, Rules


class Node:
    """One torchrun agent's calls, the latest round noted."""

    def __init__(self, port):
        endpoint, run_id = f"127.0.0.1:{port}", "t"
        parameters = RendezvousParameters(
            "pangu", endpoint, run_id, 2, 4, local_addr="127.0.0.1", unit="2"
        )
        self.handler, self.info, self.closed = get_rendezvous_handler(parameters), None, False
        self.start()

    def start(self):
        self.info = None
        threading.Thread(target=self.run, daemon=True).start()

    def die(self):
        self.handler._client.__exit__()  # no last word

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


@pytest.mark.parallel
def test_the_nodes_that_are_left_form_a_second_round_without_a_dead_rank_0():
    with store.in_thread(Timing(quiet=0.5)) as port:
        nodes = [Node(port) for _ in range(3)]
        wait_for(lambda: sum(n.info is not None for n in nodes) == 2)
        (surplus,) = [n for n in nodes if not n.info]
        first, second = sorted((n for n in nodes if n.info), key=lambda n: n.info.rank)
        first.die()
        wait_for(second.handler.num_nodes_waiting)
        assert second.handler.num_nodes_waiting() == 1
        second.start()
        wait_for(lambda: second.info and surplus.info)
        assert [(n.info.rank, n.info.world_size) for n in (second, surplus)] == [(0, 2), (1, 2)]
        assert [n.handler.num_nodes_waiting() for n in (second, surplus)] == [0, 0]
        for node in (second, surplus):
            assert node.handler.shutdown()


@pytest.mark.parallel
def test_a_first_node_that_dies_before_it_is_reached_costs_a_round_only(monkeypatch):
    monkeypatch.setattr(handler, "CONNECT_SECONDS", 2.0)
    with store.in_thread(Timing(quiet=0.5)) as port:
        rules = Rules(2, 2, 4)
        with Client("127.0.0.1", port) as client:
            client.tell(Beat("t", rules, "x#1", "127.0.0.1", free_port(), "waiting"))
            wait_for(lambda: client.view)
            node = Node(port)
            wait_for(lambda: client.view.round)
            assert client.view.round.members[0] == "x#1"
        other = Node(port)
        wait_for(lambda: node.info and other.info)
        assert {n.info.rank for n in (node, other)} == {0, 1}
        for each in (node, other):
            assert each.handler.shutdown()
