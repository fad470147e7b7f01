"""The ``pangu`` rendezvous for plain torchrun: the same store and the same unit rule.

    torchrun --rdzv-backend pangu --rdzv-endpoint HOST:PORT --rdzv-id ID --rdzv-conf unit=2 ...

torchrun finds it by the entry point group ``torchrun.handlers``. Only this module of the package
imports torch; our own launcher (pangu_core/launch) does not use it.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed import DistError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)

from pangu_core.rendezvous.client import Client
from pangu_core.rendezvous.ports import free_port
from pangu_core.rendezvous.protocol import DEFAULT_PORT, Beat, Outcome, Round, Rules

UNIT_VARIABLE: Final = "PANGU_NODE_UNIT"
POLL_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 60.0  # a round's first node may take this long to open its store
DEFAULT_TIMEOUT_SECONDS: Final = 600
logger = logging.getLogger(__name__)


def create_handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """What torch's registry asks the entry point for: the function that makes handlers."""
    return PanguRendezvous


class PanguRendezvous(RendezvousHandler):
    """One torchrun agent's membership in a gang."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        host, _, port = parameters.endpoint.rpartition(":")
        unit = parameters.get_as_int("unit", int(os.environ.get(UNIT_VARIABLE, "1"))) or 1
        seconds = parameters.get_as_int("join_timeout", DEFAULT_TIMEOUT_SECONDS)
        self._timeout_seconds = seconds or DEFAULT_TIMEOUT_SECONDS
        unique = secrets.token_hex(4)
        name = os.environ.get("PANGU_AGENT_NAME") or f"{os.uname().nodename}-{unique}"
        self._address = (
            parameters.local_addr or os.environ.get("PANGU_AGENT_ADDRESS") or os.uname().nodename
        )
        self._beat = Beat(
            gang=parameters.run_id,
            rules=Rules(unit, parameters.min_nodes, parameters.max_nodes),
            id=f"{name}#{unique}",
            address=self._address,
            port=free_port(),
            state="waiting",
        )
        self._client = Client(host or parameters.endpoint, int(port) if host else DEFAULT_PORT)
        self._client.__enter__()
        self._store: Store | None = None  # kept: the agent's end of it lives as long as this
        self._closed = False

    def get_backend(self) -> str:
        """The name given to --rdzv-backend."""
        return "pangu"

    def get_run_id(self) -> str:
        """The name given to --rdzv-id."""
        return self._beat.gang

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the next round that this node is part of.

        Raises:
            RendezvousClosedError: the gang has ended.
            RendezvousTimeoutError: the store was away for too long.
        """
        while True:
            left = self._beat.round.number if self._beat.round else self._beat.left
            self._say(state="waiting", round=None, left=left, clean=False, port=free_port())
            gang = self._wait_for_round(left)
            self._say(state="running", round=gang, seen=gang.number)
            try:
                return self._connect(gang)
            except DistError as error:
                logger.warning("round %d: its first node went away: %s", gang.number, error)

    def _connect(self, gang: Round) -> RendezvousInfo:
        rank = gang.members.index(self._beat.id)
        # For the agents' own small talk; each round has its own, on its first node.
        server = TCPStore(
            gang.master_address,
            gang.master_port,
            is_master=rank == 0,
            wait_for_workers=False,
            timeout=timedelta(seconds=CONNECT_SECONDS),
        )
        self._store = PrefixStore(f"{gang.number}", server)
        # The ranks' store is another, on rank 0 itself (use_agent_store is False).
        info = RendezvousStoreInfo.build(rank, self._store, self._address)
        return RendezvousInfo(self._store, rank, len(gang.members), info)

    def _wait_for_round(self, left: int) -> Round:
        while self._client.silence_seconds < self._timeout_seconds:
            view = self._client.view
            if view and view.command == "exit":
                self._closed = True
                message = view.outcome.message if view.outcome else ""
                raise RendezvousClosedError(f"the gang has ended: {message}")
            if view and view.command == "start" and view.round and view.round.number > left:
                return view.round
            time.sleep(POLL_SECONDS)
        raise RendezvousTimeoutError(f"no answer for {self._timeout_seconds} s")

    def num_nodes_waiting(self) -> int:
        """Whether the gang should form anew: torchrun restarts its ranks when this is not 0.

        Surplus nodes that do not fill a unit are not counted, so that they wait in peace.
        """
        view = self._client.view
        return int(view is not None and view.command in ("stop", "drain"))

    def is_closed(self) -> bool:
        """Whether the gang has ended, as far as this node knows."""
        view = self._client.view
        return self._closed or (view is not None and view.command == "exit")

    def set_closed(self) -> None:
        """End the gang for all nodes, those that wait too."""
        self._closed = True
        self._say(outcome=Outcome(code=0, message="closed"))

    def shutdown(self) -> bool:
        """Close, tell the store, hang up."""
        self.set_closed()
        heard = self._client.say_gone(replace(self._beat, state="gone"), wait_seconds=2.0)
        self._client.__exit__()
        return heard

    def _say(self, **changes: object) -> None:
        self._beat = replace(self._beat, **changes)  # type: ignore[arg-type]
        self._client.tell(self._beat)
