"""The dynamic loss scale of fp16 training, as a value that follows from the steps so far. Pure.

Gradients are computed of loss x scale, so that small ones are not lost in fp16, and divided by the
scale in fp32. The rules are Megatron's:

* An overflow uses up one of ``hysteresis``; the one that uses up the last, and each after it until
  the scale grows again, halves the scale, but never below ``minimum``.
* After ``window`` steps in a row without overflow the scale doubles, and the hysteresis is whole
  again.
* An overflow that would halve a scale at its minimum is the end: see ``is_at_its_end``.
"""

from typing import Self

from pangu_core.checkpoint.manifest import LossScaleState
from pangu_core.config.train import LossScaleConfig


class LossScale(LossScaleState):
    """A scale and what it remembers of the steps since it last grew; never changed in place."""

    @classmethod
    def start(cls, settings: LossScaleConfig) -> Self:
        """The scale of a first step."""
        return cls(settings.initial, clean_steps=0, overflows_left=settings.hysteresis)

    def is_at_its_end(self, settings: LossScaleConfig) -> bool:
        """Whether one more overflow could not be answered by a smaller scale."""
        return self.overflows_left <= 1 and self.scale <= settings.minimum

    def update(self, overflow: bool, settings: LossScaleConfig) -> "LossScale":
        """The scale of the step after one with or without overflow."""
        if overflow:
            left = max(0, self.overflows_left - 1)
            scale = self.scale if left else max(settings.minimum, self.scale / 2)
            return LossScale(scale, clean_steps=0, overflows_left=left)
        if self.clean_steps + 1 >= settings.window:
            return LossScale(2 * self.scale, clean_steps=0, overflows_left=settings.hysteresis)
        return LossScale(self.scale, self.clean_steps + 1, self.overflows_left)
