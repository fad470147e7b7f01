"""What a cluster's administrator sets for the pods of every job and service. Pure.

The widest of three layers: a stage's own settings go before its job's, and those before these.
"""

from pathlib import Path

from k8s.placement import PodSettings
from k8s.serving import pods_for_serving
from k8s.spec import PanguJob, PanguService
from pangu_core.loading import load, read_yaml


def read_pod_defaults(path: Path) -> PodSettings:
    """Settings of pods from a YAML file; an empty file sets nothing.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    documents = read_yaml(path)
    return load(PodSettings, documents[0] if documents else {}, "pods")


def with_pod_defaults(job: PanguJob, defaults: PodSettings) -> PanguJob:
    """The job with every job-wide field of ``pods`` that it leaves out taken from the defaults.

    Raises:
        ConfigError: a mount names a volume of the other side, which is not there any more.
    """
    spec = job.spec.with_pods(defaults.overridden_by(job.spec.pods))
    return job.model_copy(update={"spec": spec})


def with_service_defaults(service: PanguService, defaults: PodSettings) -> PanguService:
    """The service with every field of ``pods`` that it leaves out taken from the defaults.

    Raises:
        ConfigError: a mount names a volume of the other side, which is not there any more.
    """
    wide = pods_for_serving(defaults, service.spec.tensor_parallel)
    spec = service.spec.with_pods(wide.overridden_by(service.spec.pods))
    return service.model_copy(update={"spec": spec})
