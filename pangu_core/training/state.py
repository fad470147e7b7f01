"""Training state to checkpoint and back: weights, moments, counters and loss scale."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Group, check_sizes, key_of
from pangu_core.checkpoint.reader import Checkpoint, unseen
from pangu_core.checkpoint.writer import Piece
from pangu_core.config.model import ModelConfig
from pangu_core.config.train import LossScaleConfig
from pangu_core.layout import Slice
from pangu_core.model.weights import draw_into
from pangu_core.training.loss_scale import LossScale
from pangu_core.training.sharding import OwnedParameter
from pangu_core.training.step import StepResult


@dataclass(frozen=True)
class Position:
    """Where training stands; nothing else is needed to find the next sample."""

    step: int = 0  # steps done, the skipped ones included
    samples: int = 0  # sequences consumed: the global sample counter
    skipped: int = 0  # steps whose update was left out, because its numbers were not finite
    loss_scale: LossScale | None = None  # of the next step; None: precision is not fp16

    @property
    def updates(self) -> int:
        """Updates done: what the learning rate and the bias correction go by."""
        return self.step - self.skipped

    @property
    def gradient_factor(self) -> float:
        """What the next step's gradients are multiplied by while they are computed."""
        return self.loss_scale.scale if self.loss_scale is not None else 1.0

    def after(
        self, result: StepResult, *, num_samples: int, settings: LossScaleConfig
    ) -> "Position":
        """Where training stands after one more step on this many samples."""
        scale = self.loss_scale
        if scale is not None and result.has_finite_loss:
            # A loss is computed unscaled: if it is not finite, no other scale would help.
            scale = scale.update(not result.is_applied, settings)
        return Position(
            self.step + 1,
            self.samples + num_samples,
            self.skipped + (not result.is_applied),
            scale,
        )


def pieces(parameters: Sequence[OwnedParameter], optimizer: torch.optim.Optimizer) -> list[Piece]:
    """What this rank stores: its counted parts of weights and moments, padding left out."""
    found = []
    for owned in parameters:
        if owned.part is None or not owned.is_counted:
            continue
        for group, tensor in _groups(owned, optimizer).items():
            key = key_of(group, owned.name)
            found.append(Piece(key, owned.shape, owned.part, owned.real(tensor)))
    return found


@torch.no_grad()
def start_fresh(parameters: Sequence[OwnedParameter], model: ModelConfig, seed: int) -> None:
    """Fill the weights with initial values, the same for any number of ranks."""
    for owned in parameters:
        owned.local.zero_()  # padding rows
    held = ((o.name, o.real(o.local), o.part) for o in parameters if o.part is not None)
    draw_into(held, model, seed)


def restore(
    checkpoint: Checkpoint,
    parameters: Sequence[OwnedParameter],
    optimizer: torch.optim.Optimizer,
    model: ModelConfig,
    *,
    sign_of_life: Callable[[], None] = unseen,
) -> Position:
    """Fill weights and moments from a checkpoint of any layout.

    Raises:
        ConfigError: the sizes differ.
        CheckpointError: a tensor is missing, or something is damaged.
    """
    check_sizes(checkpoint.manifest, model, source=checkpoint.folder)
    checkpoint.load_into(_wanted(parameters, optimizer), sign_of_life)
    manifest = checkpoint.manifest
    stored = manifest.loss_scale
    scale = LossScale(**vars(stored)) if stored is not None else None
    return Position(manifest.step, manifest.samples, manifest.skipped, scale)


def restore_weights(
    checkpoint: Checkpoint,
    parameters: Sequence[OwnedParameter],
    model: ModelConfig,
    *,
    sign_of_life: Callable[[], None] = unseen,
) -> None:
    """Fill the weights alone: the start of a fine-tuning.

    Raises:
        ConfigError: the sizes differ.
        CheckpointError: a tensor is missing, or something is damaged.
    """
    check_sizes(checkpoint.manifest, model, source=checkpoint.folder)
    checkpoint.load_into(_wanted(parameters, None), sign_of_life)


def _wanted(
    parameters: Sequence[OwnedParameter], optimizer: torch.optim.Optimizer | None
) -> dict[str, tuple[Slice, torch.Tensor]]:
    wanted = {}
    for owned in parameters:
        for group, tensor in _groups(owned, optimizer).items():
            tensor.zero_()  # padding rows
            if owned.part is not None:
                wanted[key_of(group, owned.name)] = (owned.part, owned.real(tensor))
    return wanted


def _groups(
    owned: OwnedParameter, optimizer: torch.optim.Optimizer | None
) -> Mapping[Group, torch.Tensor]:
    groups: dict[Group, torch.Tensor] = {MODEL: owned.local.detach()}
    if optimizer is not None and owned.local in optimizer.state:
        groups |= {name: optimizer.state[owned.local][name] for name in MOMENTS}
    return groups
