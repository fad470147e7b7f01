"""How many steps without an update are borne, and what is said when they were too many. Pure."""

from pangu_core.config.train import TrainSettings
from pangu_core.errors import TrainingError
from pangu_core.training.loss_scale import LossScale
from pangu_core.training.step import StepResult


class Patience:
    """Counts the steps in a row whose numbers were not finite.

    An overflow of fp16 gradients under a finite loss is no such step: it lowers the loss scale,
    and only one at the scale's end is too much. A loss is computed unscaled, so one that is not
    finite counts in every precision.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self.in_a_row = 0

    def is_over(self, result: StepResult, scale: LossScale | None) -> bool:
        """Take in a step made with this scale; whether training must end."""
        if result.is_applied:
            self.in_a_row = 0
            return False
        if scale is not None and result.has_finite_loss:
            return scale.is_at_its_end(self._settings.loss_scale)
        self.in_a_row += 1
        return self.in_a_row >= self._settings.max_skipped_steps

    def error(
        self, step: int, result: StepResult, scale: LossScale | None, where: str
    ) -> Exception:
        """What ends training after ``step``; ``where`` names the micro-batches at fault."""
        if scale is not None and result.has_finite_loss:
            return TrainingError(
                f"step {step}",
                seen=f"gradients overflow at loss scale {scale.scale:g}: {where}",
                rule="must be finite at train.lossScale.minimum",
                fix="use precision bf16, lower train.optimizer.learningRate or the minimum, "
                "or look at these samples",
            )
        return TrainingError(
            f"step {step}",
            seen=f"loss {result.loss}, gradient norm {result.grad_norm}: {where}",
            rule=f"must be finite, and was not in {self.in_a_row} steps in a row "
            "(train.maxSkippedSteps)",
            fix="look at these samples, or lower train.optimizer.learningRate",
        )
