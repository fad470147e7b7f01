"""The train pod's work: check the config, then launch and watch this node's ranks.

Never loads torch: the ranks do. Without ``PET_RDZV_ENDPOINT`` the node trains by itself, with a
rendezvous store of its own in this process.
"""

import contextlib
import os

from pangu_core.config.stages import TrainConfig
from pangu_core.entry import process
from pangu_core.errors import ConfigError
from pangu_core.launch import progress
from pangu_core.launch.agent import Agent
from pangu_core.launch.settings import AgentSettings, from_environment
from pangu_core.launch.stop import StopRequest
from pangu_core.messages import TERMINATION_PATH_VARIABLE, Termination
from pangu_core.rendezvous import store
from pangu_core.rendezvous.client import Client


def train(settings: AgentSettings, stop: StopRequest) -> Termination:
    """Run this node's part of the attempt, whatever rounds it takes.

    Raises:
        RendezvousError: the store was away for too long while this node waited.
    """
    with contextlib.ExitStack() as stack:
        host, port = settings.store_host, settings.store_port
        if not host:
            host, port = "127.0.0.1", stack.enter_context(store.in_thread())
        client = stack.enter_context(Client(host, port))
        agent = Agent(settings, client, stop)
        if settings.progress_port is not None:
            bound = stack.enter_context(progress.serving(settings.progress_port, agent.report))
            if not settings.progress_port:
                progress.write_port(bound, os.environ.get(TERMINATION_PATH_VARIABLE))
        return agent.run()


def read_settings(config_path: str | None) -> AgentSettings:
    """Settings from the config file and the environment.

    Raises:
        ConfigError: either is wrong, or one node alone cannot form the smallest world.
    """
    path = config_path or os.environ.get(process.CONFIG_VARIABLE)
    config = process.read_config(TrainConfig, path)
    environment = {**os.environ, process.CONFIG_VARIABLE: str(path)}
    settings = from_environment(config, environment)
    if not settings.store_host and settings.rules.fit(1) != 1:
        raise ConfigError(
            "PET_RDZV_ENDPOINT",
            seen="not set",
            rule=f"must name the store where {settings.rules.low} or more nodes train",
            fix="set it, or start through 'pangu run', or set train.nodes.min to 1",
        )
    return settings


def run(config_path: str | None, stop: StopRequest) -> int:
    """Train on this node, alone or as one of many; returns the exit code."""
    return process.run("train", lambda: train(read_settings(config_path), stop))
