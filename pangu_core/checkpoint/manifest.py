"""manifest.json: what a checkpoint holds. Written last, it is the commit.

Every tensor of the whole model is listed as the slices that the ranks stored, each with its place
in the tensor and its SHA-256. Reading is strict: what does not tile each tensor exactly is refused,
and so is a manifest that was changed after it was written: it ends with its own SHA-256.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.tensor_file import DTypeName
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.errors import CheckpointError, ConfigError, shorten
from pangu_core.layout import Shape, Slice, intersect, num_elements, parameter_shapes

FILE_NAME: Final = "manifest.json"
VOCABULARY_FILE: Final = "vocab.model"
VERSION: Final = 1
Group = Literal["model", "exp_avg", "exp_avg_sq"]
MODEL: Final[Group] = "model"
MOMENTS: Final[tuple[Group, ...]] = ("exp_avg", "exp_avg_sq")

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
# A plain name: no folder, no dot in front, so that no manifest reaches outside its own folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Layout:
    """The sizes of the world that wrote a checkpoint."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    tp: Size = 1
    dp: Size = 1


@dataclass(frozen=True)
class LossScaleState:
    """The loss scale of fp16 training between two steps."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    clean_steps: Count  # in a row without overflow, since the scale last grew
    overflows_left: Count  # of the hysteresis: those before the scale halves


@dataclass(frozen=True)
class Vocabulary:
    """The SentencePiece model that lies in the folder."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    file: FileName
    sha256: Sha256


@dataclass(frozen=True, slots=True)  # there are tens of thousands of them
class StoredSlice:
    """A part of one tensor, as it lies in one file under the tensor's key."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    key: str  # <group>/<parameter>
    file: FileName
    shape: tuple[Count, ...]  # of the whole tensor
    part: tuple[tuple[Count, Count], ...]
    dtype: DTypeName
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says of itself, besides its tensors."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: ModelConfig
    run: RunIdentity
    layout: Layout = Layout()
    dtype: DTypeName = "fp32"  # of the weights
    samples: Count = 0  # the global sample counter: sequences consumed so far
    skipped: Count = 0  # steps whose update was left out
    loss_scale: LossScaleState | None = None  # of fp16 training
    # The latest one known when it was saved; what retention calls best.
    validation_loss: Annotated[float, Field(allow_inf_nan=False)] | None = None
    training: dict[str, Any] = field(default_factory=dict)  # the trainer's settings, opaque here
    final: bool = False  # the last one of a finished training: never pruned


@dataclass(frozen=True, kw_only=True)
class Manifest(Header):
    """A header with its step and the list of stored slices."""

    version: Literal[1] = VERSION
    step: Count
    vocabulary: Vocabulary | None = None
    slices: tuple[StoredSlice, ...] = ()
    sha256: Sha256 | None = None  # of all bytes before it; manifests without one are older

    @property
    def header(self) -> Header:
        """What it says of itself without its tensors."""
        return Header(**{field.name: getattr(self, field.name) for field in fields(Header)})

    @property
    def has_optimizer(self) -> bool:
        """Whether the moments are there too."""
        return any(not stored.key.startswith(f"{MODEL}/") for stored in self.slices)

    def to_json(self) -> bytes:
        """UTF-8 text that ``parse`` reads back; a line for each slice, for people who look."""
        values = _ADAPTER.dump_python(self, mode="json", by_alias=True, exclude={"sha256"})
        rows = ",\n  ".join(json.dumps(row) for row in values.pop("slices"))
        head = json.dumps(values, ensure_ascii=False, indent=1).removesuffix("\n}")
        body = f'{head},\n "slices": [\n  {rows}\n ]'.encode()
        return body + _SEAL + f'"{durable.sha256(body)}"\n}}\n'.encode()


_ADAPTER: Final = TypeAdapter(Manifest)
_SEAL: Final = b',\n "sha256": '


def key_of(group: Group, parameter: str) -> str:
    """Name of a stored tensor."""
    return f"{group}/{parameter}"


def read_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a checkpoint folder and its bytes.

    Raises:
        CheckpointError: the manifest is missing or not to be trusted.
    """
    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            str(folder),
            seen=f"no {FILE_NAME}",
            rule="a checkpoint is complete only with its manifest",
            fix="name a checkpoint folder, or use the checkpoint before",
        ) from error
    return parse(data, str(path)), data


def parse(data: bytes, source: str) -> Manifest:
    """Read and check a manifest; ``source`` names it in messages.

    Raises:
        CheckpointError: not JSON, a version of the future, an unknown or missing field,
            slices that do not make up the model's tensors, or changed after it was written.
    """
    try:
        manifest = _ADAPTER.validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise _refusal(
            f"{source}: {where}" if where else source,
            shorten(repr(problem["input"]), 80),
            f"must be a manifest of version {VERSION}: {problem['msg'].lower()}",
        ) from error
    except ConfigError as error:
        raise _refusal(f"{source}: {error.subject}", str(error.seen), error.rule) from error
    _check_tensors(manifest, source)
    _check_seal(manifest, data, source)
    return manifest


def tiles_exactly(shape: Shape, parts: Iterable[Slice]) -> bool:
    """Whether the parts cover a tensor of this shape without overlap and without gap.

    No part may be empty. Enough to check: all inside, none overlaps another, and the elements
    add up. Sorted by their first dimension, each is compared with its neighbours only.
    """
    ordered = sorted(parts)
    inside = all(
        len(part) == len(shape)
        and all(0 <= a < b <= size for (a, b), size in zip(part, shape, strict=True))
        for part in ordered
    )
    if not inside or sum(map(num_elements, ordered)) != math.prod(shape):
        return False
    if not shape:
        return len(ordered) == 1
    active: list[Slice] = []
    for part in ordered:
        active = [other for other in active if other[0][1] > part[0][0]]
        if any(intersect(part, other) for other in active):
            return False
        active.append(part)
    return True


def check_sizes(manifest: Header, model: ModelConfig, *, source: Path | None = None) -> None:
    """Refuse a checkpoint of another network; ``source`` is its folder, for the message.

    Raises:
        ConfigError: naming the first field that differs.
    """
    for name, info in type(model).model_fields.items():
        found, wanted = getattr(manifest.model, name), getattr(model, name)
        if name != "init_std" and found != wanted:  # init_std matters to fresh weights only
            written = f"model.{info.alias}"
            raise ConfigError(
                f"{source or 'checkpoint'}: {written}",
                seen=found,
                rule=f"must equal the configured {wanted}",
                fix=f"set {written} to {found}, name another checkpoint, "
                "or give the job another name",
            )


def _check_tensors(manifest: Manifest, source: str) -> None:
    if manifest.model.num_layers > len(manifest.slices):  # before millions of names are made up
        seen = f"{manifest.model.num_layers} layers, {len(manifest.slices)} slices"
        raise _refusal(source, seen, "slices must cover every tensor without overlap or gap")
    parameters = parameter_shapes(manifest.model)
    groups: tuple[Group, ...] = (MODEL, *MOMENTS) if manifest.has_optimizer else (MODEL,)
    expected = {key_of(g, name): shape for g in groups for name, shape in parameters.items()}
    found: dict[str, list[StoredSlice]] = {key: [] for key in expected}
    for stored in manifest.slices:
        if expected.get(stored.key) != stored.shape:
            rule = f"must be a tensor of the model, of shape {expected.get(stored.key)}"
            raise _refusal(f"{source}: {stored.key}", f"shape {stored.shape}", rule)
        found[stored.key].append(stored)
    for key, slices in found.items():
        if not tiles_exactly(expected[key], [stored.part for stored in slices]):
            seen = shorten(", ".join(str(stored.part) for stored in slices) or "nothing stored")
            rule = f"slices must cover {expected[key]} without overlap or gap"
            raise _refusal(f"{source}: {key}", seen, rule)
    places = {(stored.file, stored.key) for stored in manifest.slices}
    if len(places) != len(manifest.slices):
        raise _refusal(source, "two slices of a key in one file", "must be one per file")


def _check_seal(manifest: Manifest, data: bytes, source: str) -> None:
    digest = durable.sha256(data.rpartition(_SEAL)[0])
    if manifest.sha256 not in (None, digest):
        seen = f"content has SHA-256 {digest}"
        raise _refusal(source, seen, f"must be {manifest.sha256}, as when it was written")


def _refusal(subject: str, seen: str, rule: str) -> CheckpointError:
    return CheckpointError(subject, seen=seen, rule=rule, fix="use the checkpoint before")
