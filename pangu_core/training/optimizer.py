"""AdamW over the parameters a rank owns, and the global gradient norm."""

from collections.abc import Sequence

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


def squared_norm(parameters: Sequence[OwnedParameter]) -> float:
    """This rank's share of the squared global gradient norm; repeated tensors count once."""
    grads = [p.local.grad for p in parameters if p.is_counted and p.local.grad is not None]
    if not grads:
        return 0.0
    norms = torch._foreach_norm([grad for grad in grads if grad.numel()])
    return float(torch.stack([norm.double() for norm in norms]).square().sum())


def clip_(parameters: Sequence[OwnedParameter], *, norm: float, limit: float) -> None:
    """Scale gradients by limit / norm where the norm is above the limit; 0 means no limit."""
    if limit and norm > limit:
        grads = [p.local.grad for p in parameters if p.local.grad is not None and p.local.numel()]
        torch._foreach_mul_(grads, limit / (norm + 1e-6))
