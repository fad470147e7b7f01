"""What a weight format is: a module that can look, read and perhaps write, tensor by tensor.

Every reader gives ``Weights`` and every writer takes them, so any format can become any other.
The table of formats is pangu_core/entry/formats.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Group, Header
from pangu_core.checkpoint.reader import Report
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a conversion, and what the source may not say of itself."""

    run: RunIdentity
    model: ModelConfig | None = None  # sizes; where the source says them too, they must agree
    num_heads: int | None = None  # for a source that does not say it
    dtype: DTypeName | None = None  # cast the weights; None: as they are
    optimizer: bool = False  # carry the moments along, which the source must have then
    strategy: Path | None = None  # how a distributed MindSpore checkpoint is cut
    tensor_parallel: int = 1  # files to write, in a format that has one for each rank
    vocab_divisor: int = 128  # Megatron pads the vocabulary to a multiple of this, for each rank

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of tensors that are wanted."""
        return (MODEL, *MOMENTS) if self.optimizer else (MODEL,)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model on its way: nothing is read before a tensor's turn comes."""

    header: Header
    tensors: Mapping[str, Incoming]  # <group>/<parameter>, each group in file order
    step: int = 0
    vocabulary: Path | None = None  # its SentencePiece model


def check_free(target: Path, *, may_replace: bool) -> None:
    """Refuse to write over anything but an older result that may be replaced.

    Raises:
        ConfigError: see above.
    """
    if target.exists() and not may_replace:
        raise ConfigError(
            "target",
            seen=str(target),
            rule="must not exist yet",
            fix="name another one, or remove this one",
        )


class Reader(Protocol):
    """A format that can be read. Modules fulfil it with functions of these names."""

    def detect(self, source: Path) -> bool:
        """Whether a file or folder looks like this format; cheap, and never raises."""

    def inputs(self, source: Path) -> list[Path]:
        """The files whose change means that a conversion must be done again."""

    def read(self, source: Path, request: Request) -> Weights:
        """Look at everything but the tensors' data.

        Raises:
            ConfigError: something that only the user can say is not said.
            CheckpointError: the source is damaged, incomplete, or of other sizes than asked for.
        """


class Writer(Protocol):
    """A format that can be written. Modules fulfil it with functions of these names."""

    def is_written(self, target: Path) -> bool:
        """Whether a whole result of this format lies at the target."""

    def write(
        self, weights: Weights, target: Path, *, request: Request, replace_old: bool, report: Report
    ) -> str:
        """Write one tensor after another; whole or invisible. Returns a SHA-256 of the result.

        Raises:
            ConfigError: the target is there and may not be replaced.
            CheckpointError: a tensor could not be read.
            OSError: the volume refused.
        """
