"""Values as YAML text that every reader, of YAML 1.1 or 1.2, reads back as the same values."""

import re
from collections.abc import Iterable
from typing import Any, Final

import yaml

# Text that no reader takes for a number, a truth value, null or a date. Anything else is quoted.
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_UNLIMITED: Final = 2**30
_MAP: Final = "tag:yaml.org,2002:map"
_SEQUENCE: Final = "tag:yaml.org,2002:seq"


class _Dumper(_BASE):  # type: ignore[misc]
    """Writes no anchors, whatever is used twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _QuotingDumper(_Dumper):
    """Quotes every string."""


class _PrettyDumper(_Dumper):
    """Quotes strings that need it; text of several lines is a block, numbers stand in a row."""


class _CompactDumper(_PrettyDumper):
    """Writes what holds nothing but scalars on one line."""


def one_line(value: Any) -> str:
    """A value on one line of ASCII, every string quoted, to be put anywhere into a template."""
    text: str = yaml.dump(
        value,
        Dumper=_QuotingDumper,
        default_flow_style=True,
        width=_UNLIMITED,
        sort_keys=False,
    )
    return text.removesuffix("...\n").strip()


def pretty(value: Any) -> str:
    """A value as people write YAML, keys in their own order, Chinese as it is."""
    return _pretty([value])


def pretty_documents(values: Iterable[Any]) -> str:
    """Several values as one stream of documents."""
    return _pretty(values, explicit_start=True)


def compact(value: Any) -> str:
    """As ``pretty``, with every innermost mapping or list on one line."""
    return _pretty([value], dumper=_CompactDumper)


def _pretty(
    values: Iterable[Any], *, explicit_start: bool = False, dumper: Any = _PrettyDumper
) -> str:
    text: str = yaml.dump_all(
        values,
        Dumper=dumper,
        default_flow_style=False,
        width=_UNLIMITED,
        sort_keys=False,
        allow_unicode=True,
        explicit_start=explicit_start,
    )
    return text


def _quoted(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _readable(dumper: Any, text: str) -> Any:
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    style = None if is_plain else "|" if _is_block(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _in_a_row(dumper: Any, values: list[Any]) -> Any:
    numbers = bool(values) and all(isinstance(value, int) for value in values)
    return dumper.represent_sequence(_SEQUENCE, values, flow_style=numbers)


def _compact_mapping(dumper: Any, values: dict[Any, Any]) -> Any:
    return dumper.represent_mapping(_MAP, values, flow_style=_is_innermost(values.values()))


def _compact_sequence(dumper: Any, values: list[Any]) -> Any:
    return dumper.represent_sequence(_SEQUENCE, values, flow_style=_is_innermost(values))


def _is_innermost(values: Iterable[Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in values)


def _is_block(text: str) -> bool:
    """Whether text has several lines and none of them is odd, so that a block shows it as it is."""
    *lines, rest = text.split("\n")
    plain = all(line.isprintable() and not line.endswith(" ") for line in lines)
    return len(lines) > 1 and not rest and plain and bool(lines[-1]) and lines[0][:1].strip() != ""


_QuotingDumper.add_representer(str, _quoted)
_PrettyDumper.add_representer(str, _readable)
_PrettyDumper.add_representer(list, _in_a_row)
_CompactDumper.add_representer(dict, _compact_mapping)
_CompactDumper.add_representer(list, _compact_sequence)
