"""AdamW over the parameters a rank owns, and what is measured and done to their gradients."""

from collections.abc import Iterator, Sequence

import torch

from pangu_core.checkpoint.manifest import MOMENTS
from pangu_core.config.train import OptimizerConfig
from pangu_core.training.sharding import OwnedParameter


def build(parameters: Sequence[OwnedParameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with two groups: matrices and tables decay, LayerNorm and biases do not.

    State is made here, so that a fresh run and a resumed one hold the same.
    """
    trained = [owned for owned in parameters if owned.local.numel()]
    decayed = [owned.local for owned in trained if len(owned.shape) > 1]
    plain = [owned.local for owned in trained if len(owned.shape) == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    for owned in trained:
        optimizer.state[owned.local] = {
            "step": torch.zeros((), dtype=torch.float32, device=owned.local.device),
            **{name: torch.zeros_like(owned.local.data) for name in MOMENTS},
        }
    return optimizer


def set_step(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Tell the optimizer how many updates lie behind it (for bias correction)."""
    for state in optimizer.state.values():
        state["step"].fill_(step)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def measure_gradients(parameters: Sequence[OwnedParameter]) -> tuple[float, bool]:
    """This rank's share of the squared global norm, and whether all its gradients are finite.

    Repeated tensors count once in the norm, but are looked at as well: a copy that overflows on
    one tensor rank alone would make the copies differ.
    """
    counted = [grad for owned, grad in _gradients(parameters) if owned.is_counted]
    repeated = [grad for owned, grad in _gradients(parameters) if not owned.is_counted]
    if not counted and not repeated:
        return 0.0, True
    norms = torch.stack(torch._foreach_norm(counted + repeated)).double()
    square = norms[: len(counted)].square().sum()
    # One transfer from the device for both. A norm is finite only if all of its elements are.
    square_and_finite = torch.stack([square, norms.isfinite().all().double()]).tolist()
    return square_and_finite[0], bool(square_and_finite[1])


def clip_factor(norm: float, limit: float) -> float:
    """What brings gradients of this norm to the limit; 1 if they are within, or for limit 0."""
    return limit / (norm + 1e-6) if limit and norm > limit else 1.0


def multiply_gradients_(parameters: Sequence[OwnedParameter], factor: float) -> None:
    """Clip and take the loss scale out, in one pass; none for factor 1."""
    if factor != 1.0:
        torch._foreach_mul_([grad for _, grad in _gradients(parameters)], factor)


def _gradients(
    parameters: Sequence[OwnedParameter],
) -> Iterator[tuple[OwnedParameter, torch.Tensor]]:
    for owned in parameters:
        grad = owned.local.grad
        if grad is not None and grad.numel():
            yield owned, grad
