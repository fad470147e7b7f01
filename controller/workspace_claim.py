"""Whether a workspace can be used, as far as the cluster shows it. Pure."""

from typing import Final

from controller.observe import ClaimView, Observed, Waiting

_SHARED: Final = "ReadWriteMany"
_SINGLE_POD: Final = "ReadWriteOncePod"


def workspace_problem(observed: Observed) -> Waiting | None:
    """Why no stage can start; None where one can, or where the claim is about to be made."""
    job = observed.job
    if not job.claim:
        return None
    if observed.claim is None and job.makes_claim:
        return Waiting("ClaimMissing", f"claim {job.claim} is being made")
    return claim_problem(job.claim, observed.claim, needs_many=job.needs_many)


def claim_problem(name: str, claim: ClaimView | None, *, needs_many: bool) -> Waiting | None:
    """Why no pod can use a claim; None where they can.

    Args:
        name: of the claim.
        claim: None if there is none.
        needs_many: pods on several nodes use it.
    """
    if claim is None:
        return Waiting(
            "ClaimMissing",
            f"workspace.claimName: {name}: must name a claim of this namespace; create it, or "
            "ask for one by workspace.size",
        )
    if claim.phase == "Lost":
        return Waiting("ClaimLost", f"claim {name} has lost its volume; restore it")
    modes = claim.access_modes
    if _SINGLE_POD in modes:
        return Waiting(
            "ClaimSinglePod",
            f"claim {name}: {_SINGLE_POD}: stages and store follow each other closely, so one "
            f"pod alone is never enough; use a claim with {_SHARED}",
        )
    if needs_many and _SHARED not in modes:
        return Waiting(
            "ClaimSingleNode",
            f"claim {name}: {', '.join(modes)}: pods on several nodes use it; use a claim with "
            f"{_SHARED}, or pin pods.nodeSelector kubernetes.io/hostname to one node",
        )
    return None
