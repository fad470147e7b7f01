"""What reconcile can ask of its rim: each action may be carried out twice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Create:
    """Create every object of a stage's attempt."""

    stage: str
    attempt: int


@dataclass(frozen=True)
class Delete:
    """Delete an attempt's Job or PyTorchJob in the foreground, and its ConfigMap.

    Its pods get their grace period, and keep their store: they agree through it how to stop.
    """

    stage: str
    attempt: int


@dataclass(frozen=True)
class Release:
    """Delete an attempt's store, once none of its pods is active; finished pods stay."""

    stage: str
    attempt: int


@dataclass(frozen=True)
class Scale:
    """Set how many workers a PyTorchJob asks for."""

    stage: str
    attempt: int
    replicas: int


@dataclass(frozen=True)
class Kill:
    """Delete a pod at once, without waiting for its node, which is lost."""

    pod: str
    uid: str


@dataclass(frozen=True)
class MakeClaim:
    """Create the workspace's claim."""


@dataclass(frozen=True)
class Serve:
    """Make the PanguService of the job's name, or bring one of ours up to date."""

    version: str  # of the model


@dataclass(frozen=True)
class Notify:
    """Have a pod tell a webhook that the job has ended."""

    number: int  # counts the job's ends
    body: str  # JSON


@dataclass(frozen=True)
class Remove:
    """Delete the job itself: its time to live after its end is over."""


Action = Create | Delete | Release | Scale | Kill | MakeClaim | Serve | Notify | Remove
