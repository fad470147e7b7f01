"""``pangu controller``: watch PanguJobs and PanguServices and do what they ask for. What runs in the chart's pods."""

import os
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

import click

from controller.cluster.api import Api
from controller.cluster.manager import Manager, Settings
from controller.cluster.metrics import Metrics
from controller.cluster.probes import serving
from k8s.defaults import read_pod_defaults
from k8s.placement import PodSettings
from k8s.render import STORE_IMAGE
from pangu_core import log

EXIT_LOST_LEASE = 1


@click.command()
@click.option(
    "--namespace",
    "-n",
    "namespaces",
    multiple=True,
    help="Namespace to watch, or several, each with its own -n; default: the pod's own.",
)
@click.option("--all-namespaces", "-A", is_flag=True, help="Watch every namespace.")
@click.option("--lease-namespace", help="Where the Lease lies; default: the pod's own namespace.")
@click.option("--watch-nodes", is_flag=True, help="Notice lost nodes; nodes must be readable.")
@click.option(
    "--watch-autoscalers",
    is_flag=True,
    help="Make autoscalers for services that ask for them; they must be writable.",
)
@click.option(
    "--watch-queues",
    is_flag=True,
    help="Say why Kueue holds a job; its Workloads must be readable.",
)
@click.option(
    "--pod-defaults",
    type=click.Path(path_type=Path),
    help="YAML file of what the pods of every job get where it does not say otherwise.",
)
@click.option("--store-image", default=STORE_IMAGE, show_default=True, help="Image of the store.")
@click.option("--workers", default=16, show_default=True, help="Jobs worked on at one time.")
@click.option("--probe-port", default=8081, show_default=True, help="Port of health and metrics.")
@click.option("--progress-port", default=8080, show_default=True, help="Port of the launchers.")
@click.option("--context", help="Context of the kubeconfig, outside a cluster.")
def controller(
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    pod_defaults: Path | None,
    probe_port: int,
    context: str | None,
    **options: Any,
) -> None:
    """Watch PanguJobs and do what they ask for.

    Any number of replicas may run: one works, the others wait for its Lease.
    """
    log.set_up("controller")
    api = Api.connect(context=context)
    lease_namespace = options.pop("lease_namespace") or api.namespace
    settings = Settings(
        identity=f"{os.uname().nodename}-{secrets.token_hex(4)}",
        lease_namespace=lease_namespace,
        namespaces=() if all_namespaces else namespaces or (api.namespace,),
        pod_defaults=read_pod_defaults(pod_defaults) if pod_defaults else PodSettings(),
        **options,
    )
    metrics = Metrics()
    manager = Manager(api, settings, metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: manager.stop())
    with serving(
        probe_port,
        is_alive=lambda: manager.is_alive,
        is_ready=lambda: manager.is_ready,
        registry=metrics.registry,
    ):
        was_stopped = manager.run()
    sys.exit(0 if was_stopped else EXIT_LOST_LEASE)
