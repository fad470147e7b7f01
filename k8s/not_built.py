"""What the forms accept and this version cannot do yet, each refused by its name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pangu_core.config.base import Settings
from pangu_core.errors import ConfigError


@dataclass(frozen=True)
class NotBuilt:
    """A field whose value, where ``applies``, asks for something that does not exist yet."""

    path: str
    applies: Callable[[Any], bool]
    advice: str


def _is_set(value: Any) -> bool:
    return bool(value)


def _is(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


def _is_on_a_claim(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("pvc://")


def _is_several(value: Any) -> bool:
    return isinstance(value, int) and value > 1


_COPY_IT: Final = "copy the files into the workspace and name them from there"
NOT_BUILT: Final = (
    NotBuilt("train.method", _is("lora"), "use full"),
    NotBuilt("train.lora", _is_set, "use method: full"),
    NotBuilt("model.from", _is_on_a_claim, _COPY_IT),
    NotBuilt("data.input", lambda value: isinstance(value, list), "use one glob"),
    NotBuilt("data.input", _is_on_a_claim, _COPY_IT),
    NotBuilt("data.validation", _is_set, "take the validation text from data.split"),
    NotBuilt("data.format", _is("chat"), "use text or jsonl"),
    NotBuilt("data.template", _is_set, "use format text or jsonl"),
    NotBuilt("export.to", _is_on_a_claim, "write into the workspace and copy it from there"),
    NotBuilt("serve.tensorParallel", _is_several, "use 1"),
)
OF_SERVICES: Final = (NotBuilt("tensorParallel", _is_several, "use 1"),)


def refuse(spec: Settings, table: Iterable[NotBuilt] = NOT_BUILT) -> None:
    """Refuse a form that asks for what is not built; by default, a job's.

    Raises:
        ConfigError: with the field, its value, and what to use instead.
    """
    values = spec.dump()
    for entry in table:
        value = _at(values, entry.path)
        if value is not None and entry.applies(value):
            seen = value if isinstance(value, (str, int, float)) else "given"
            raise ConfigError(entry.path, seen=seen, rule="is not built yet", fix=entry.advice)


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values
