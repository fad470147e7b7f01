"""Whether a job's workspace can be used, as far as the cluster shows it. Pure."""

from typing import Final

from controller.observe import Observed, Waiting

_SHARED: Final = "ReadWriteMany"
_SINGLE_POD: Final = "ReadWriteOncePod"


def workspace_problem(observed: Observed) -> Waiting | None:
    """Why no stage can start; None where one can, or where the claim is about to be made."""
    job, claim = observed.job, observed.claim
    if not job.claim:
        return None
    if claim is None:
        if job.makes_claim:
            return Waiting("ClaimMissing", f"claim {job.claim} is being made")
        return Waiting(
            "ClaimMissing",
            f"workspace.claimName: {job.claim}: must name a claim of this namespace; create it, or "
            "ask for one by workspace.size",
        )
    if claim.phase == "Lost":
        return Waiting("ClaimLost", f"claim {job.claim} has lost its volume; restore it")
    modes = claim.access_modes
    if _SINGLE_POD in modes:
        return Waiting(
            "ClaimSinglePod",
            f"claim {job.claim}: {_SINGLE_POD}: stages and store follow each other closely, so one "
            f"pod alone is never enough; use a claim with {_SHARED}",
        )
    if job.needs_many and _SHARED not in modes:
        return Waiting(
            "ClaimSingleNode",
            f"claim {job.claim}: {', '.join(modes)}: pods on several nodes use it; use a claim with "
            f"{_SHARED}, or pin pods.nodeSelector kubernetes.io/hostname to one node",
        )
    return None
