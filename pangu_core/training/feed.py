"""The batches of a run: training by the global sample counter, validation always the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pangu_core.config.stages import DataSettings
from pangu_core.data.batches import micro_batches
from pangu_core.data.samples import SampleSource, Split, open_samples
from pangu_core.data.token_files import TokenFile
from pangu_core.dist import Axis
from pangu_core.training.plan import Plan
from pangu_core.training.step import MicroBatch


@dataclass(frozen=True)
class Feed:
    """Where batches come from; holds no position."""

    training: SampleSource
    validation: SampleSource
    plan: Plan
    document_mask: bool
    tokens: str
    """Fingerprint of the token files."""

    @classmethod
    def open(cls, prefix: Path, data: DataSettings, plan: Plan, seed: int) -> Self:
        """Open the token files.

        Raises:
            DataError: they are missing, damaged, or too short for one sample.
        """
        file = TokenFile.open(prefix)

        def source(split: Split, order: Literal["shuffled", "reference"]) -> SampleSource:
            return open_samples(
                file,
                split=split,
                shares=data.shares,
                order=order,
                sequence_length=plan.sequence_length,
                seed=seed,
                num_samples=plan.steps * plan.global_batch_size,
            )

        return cls(
            training=source("train", data.order),
            validation=source("valid", "shuffled"),
            plan=plan,
            document_mask=data.document_mask,
            tokens=file.fingerprint,
        )

    @property
    def has_validation(self) -> bool:
        """Whether the validation split holds at least one sample."""
        return self.validation.samples_per_epoch > 0

    def epoch(self, samples: int) -> int:
        """Which pass over the training split the sample counter is in, from 0."""
        return samples // self.training.samples_per_epoch

    def training_batches(self, samples: int, dp: Axis) -> list[MicroBatch]:
        """One data rank's micro-batches of the step that begins at the sample counter."""
        return self._deal(self.training, samples, self.plan.global_batch_size, dp)

    def validation_batches(self, global_batches: int, dp: Axis) -> list[MicroBatch]:
        """One data rank's share of the first batches of the validation split, none twice."""
        wanted = global_batches * self.plan.global_batch_size
        return self._deal(self.validation, 0, min(wanted, self.validation.samples_per_epoch), dp)

    def _deal(self, source: SampleSource, first: int, count: int, dp: Axis) -> list[MicroBatch]:
        return micro_batches(
            source,
            first,
            global_batch_size=count,
            micro_batch_size=self.plan.micro_batch_size,
            dp_rank=dp.rank,
            dp_size=dp.size,
            document_mask=self.document_mask,
        )
