"""What a launcher is told: the pod's environment and config, read once into frozen values."""

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pangu_core.config.stages import TrainConfig
from pangu_core.errors import ConfigError
from pangu_core.launch.heartbeat import StallLimits
from pangu_core.rendezvous.protocol import DEFAULT_PORT, ProtocolError, Rules

RANK_COMMAND: Final = (sys.executable, "-m", "pangu_core.entry.rank")
SPARE_COMMAND: Final = (sys.executable, "-m", "pangu_core.entry.spare")


@dataclass(frozen=True)
class Limits:
    """Seconds and counts that bound every wait of a launcher."""

    tick: float = 0.05  # how often it looks around
    store_away: float = 300.0  # a waiting launcher gives up when the store is away this long
    grace: float = 30.0  # the pod's terminationGracePeriodSeconds
    grace_margin: float = 3.0  # of it, kept for the launcher's own end
    finish: float = 60.0  # ranks may take this long to exit once the result is committed
    farewell: float = 2.0  # for the last word to the store
    dump: float = 0.5  # between asking a stalled rank for its stacks and killing it
    crashes: int = 5  # deaths in a row without a new step before giving up
    stall: StallLimits = field(default_factory=StallLimits)


@dataclass(frozen=True)
class AgentSettings:
    """One launcher's identity, gang and work."""

    name: str
    address: str
    gang: str
    rules: Rules
    processes: int  # ranks on this node
    store_host: str
    store_port: int
    command: tuple[str, ...] = RANK_COMMAND
    spare_command: tuple[str, ...] | None = None  # what becomes a rank faster; None: no spares
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    progress_port: int | None = None  # None: no server; 0: any port
    limits: Limits = field(default_factory=Limits)
    # A pod that replaces another has its name: the incarnation tells them apart.
    incarnation: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def id(self) -> str:
        """Unique per launcher process."""
        return f"{self.name}#{self.incarnation}"


def from_environment(config: TrainConfig, environment: Mapping[str, str]) -> AgentSettings:
    """Read what the training operator (or the local runtime) set for this pod.

    Without ``PET_RDZV_ENDPOINT`` the store host is empty: a node by itself.

    Raises:
        ConfigError: a value is malformed, or does not fit the config.
    """
    hang = config.train.hang
    host, port = _endpoint(environment.get("PET_RDZV_ENDPOINT", ""))
    grace = float(_count(environment, "PANGU_GRACE_SECONDS", 30))
    progress = environment.get("PANGU_PROGRESS_PORT")
    return AgentSettings(
        name=environment.get("PANGU_AGENT_NAME") or os.uname().nodename,
        address=environment.get("PANGU_AGENT_ADDRESS") or "127.0.0.1",
        gang=environment.get("PET_RDZV_ID") or f"{config.run.uid}-{config.run.attempt}",
        rules=_rules(config, environment),
        processes=_processes(config, environment),
        store_host=host,
        store_port=port,
        environment=dict(environment),
        spare_command=SPARE_COMMAND if config.train.warm_spares else None,
        progress_port=_count(environment, "PANGU_PROGRESS_PORT", 0) if progress else None,
        limits=Limits(
            grace=grace, stall=StallLimits.following(hang.floor_seconds, factor=hang.factor)
        ),
    )


def _endpoint(text: str) -> tuple[str, int]:
    if not text:
        return "", 0
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, DEFAULT_PORT
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(
            "PET_RDZV_ENDPOINT", seen=text, rule="must read host:port", fix="name the store"
        )
    return host.strip("[]"), int(port)


def _rules(config: TrainConfig, environment: Mapping[str, str]) -> Rules:
    nodes, unit = config.train.nodes, config.train.node_unit
    text = environment.get("PET_NNODES") or f"{nodes.min}:{nodes.max}"
    low, _, high = text.partition(":")
    try:
        rules = Rules(unit=unit, low=int(low), high=int(high or low))
    except (ValueError, ProtocolError) as error:
        raise _nodes_error(text, unit) from error
    if rules.low % unit or rules.high % unit:
        raise _nodes_error(text, unit)
    return rules


def _nodes_error(text: str, unit: int) -> ConfigError:
    return ConfigError(
        "PET_NNODES",
        seen=text,
        rule=f"must read n or min:max, multiples of {unit} with min <= max",
        fix="set it from train.nodes",
    )


def _processes(config: TrainConfig, environment: Mapping[str, str]) -> int:
    planned = config.train.nodes.processes_per_node
    found = _count(environment, "PET_NPROC_PER_NODE", planned)
    if found != planned:
        raise ConfigError(
            "PET_NPROC_PER_NODE",
            seen=found,
            rule=f"must be train.nodes.processesPerNode ({planned})",
            fix="render the pods and the config from one job file",
        )
    return found


def _count(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(
            name, seen=text, rule="must be a whole number, not negative", fix="correct it"
        )
    return int(text)
