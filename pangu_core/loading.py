"""YAML to settings and back: strict keys with the nearest valid one, and ``--set a.b=c``."""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pangu_core.errors import ConfigError

S = TypeVar("S", bound=BaseModel)
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# The choices in pydantic's words, e.g. "'text' or 'jsonl'".
_EXPECTED: Final = re.compile(r"'([^']*)'")


class _Loader(_SafeLoader):  # type: ignore[misc]
    """YAML of which no key is lost: of two equal ones the parser would drop the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that is there twice; a merged one (``<<``) may be overridden."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {name} appears twice in one mapping", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """Quotes what ``_Loader`` would read as a number."""


# YAML 1.1 takes 1e-4, without a point, for text; people mean a number.
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def read_yaml(path: Path) -> list[Any]:
    """Every document of a YAML file.

    Raises:
        ConfigError: the file is missing, not UTF-8, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "file",
            seen=str(path),
            rule=f"must be a readable file ({error.strerror})",
            fix="check the path",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), seen=f"byte {error.start}", rule="must be UTF-8", fix="save it as UTF-8"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> list[Any]:
    """Every document of a YAML text; ``source`` names it in messages.

    Raises:
        ConfigError: the text is not YAML.
    """
    try:
        return [doc for doc in yaml.load_all(text, Loader=_Loader) if doc is not None]
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(
            f"{source}{line}", seen=str(error.problem), rule="must be valid YAML", fix="mend it"
        ) from error
    except yaml.YAMLError as error:
        seen = " ".join(str(error).split())
        raise ConfigError(
            source, seen=seen, rule="must be valid YAML", fix="remove that character"
        ) from error


def dump_yaml(value: Any) -> str:
    """YAML with keys in their own order and Chinese as it is."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text


def load(cls: type[S], values: Any, prefix: str = "") -> S:
    """Validate plain values into a settings class.

    Raises:
        ConfigError: with the path of the first offending field, the value, the rule, and the
            nearest valid key where a key is unknown.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _first_problem(cls, error, values, prefix) from error


def apply_overrides(values: Any, overrides: Iterable[str]) -> Any:
    """A copy of ``values`` with each ``a.b=c`` applied; c is read as YAML.

    Raises:
        ConfigError: an override has no ``=`` or runs through something that is no mapping.
    """
    result = _copy(values)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(
                "--set", seen=override, rule="must read path=value", fix="e.g. --set train.steps=10"
            )
        keys, target = path.split("."), result
        for key in keys[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise ConfigError(
                "--set", seen=path, rule="must name a field inside mappings", fix="check the path"
            )
        documents = parse_yaml(text, f"--set {path}")
        target[keys[-1]] = documents[0] if documents else None
    return result


def broken_rule(rule: str, fix: str) -> PydanticCustomError:
    """What a field's validator raises, so that ``load`` can say where, and what to do."""
    return PydanticCustomError("broken_rule", "{rule}", {"rule": rule, "fix": fix})


def nearest(key: str, valid: Iterable[str]) -> str:
    """Advice for an unknown key: the closest valid one, or the list of them."""
    names = sorted(valid)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"


def _copy(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _copy(value) for key, value in values.items()}
    return [_copy(value) for value in values] if isinstance(values, list) else values


def _first_problem(
    cls: type[BaseModel], error: ValidationError, values: Any, prefix: str
) -> ConfigError:
    problem = error.errors(include_url=False)[0]
    location = _without_union_members(problem["loc"], values)
    where = ".".join(str(part) for part in location)
    path = ".".join(part for part in (prefix, where) if part) or cls.__name__
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(cls, location[:-1])
        return ConfigError(
            path,
            seen=problem["input"],
            rule="is not a known key",
            fix=nearest(str(problem["loc"][-1]), valid),
        )
    if problem["type"] == "missing":
        return ConfigError(path, seen="nothing", rule="is required", fix="add it")
    if problem["type"] == "broken_rule":
        return ConfigError(path, seen=problem["input"], **problem["ctx"])
    if problem["type"] in ("model_type", "dict_type"):
        rule = "must be a mapping of fields"
        return ConfigError(path, seen=problem["input"], rule=rule, fix="write field: value")
    rule = problem["msg"][:1].lower() + problem["msg"][1:]
    fix = "change the value"
    if problem["type"] == "literal_error":
        fix = nearest(str(problem["input"]), _EXPECTED.findall(problem["ctx"]["expected"]))
    return ConfigError(path, seen=problem["input"], rule=rule, fix=fix)


def _without_union_members(location: tuple[int | str, ...], values: Any) -> tuple[int | str, ...]:
    """The parts that lead through the values; pydantic also names the union's member tried."""
    path: list[int | str] = []
    for index, part in enumerate(location):
        if isinstance(values, Mapping) and (part in values or index == len(location) - 1):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            continue
        path.append(part)
    return tuple(path)


@functools.cache  # a schema takes milliseconds, and a controller may refuse thousands of forms
def _valid_keys(cls: type[BaseModel], path: tuple[int | str, ...]) -> tuple[str, ...]:
    """Aliases of the model that the path leads to."""
    schema = cls.model_json_schema(by_alias=True)
    node: dict[str, Any] = schema
    for part in path:
        node = _follow(schema, node)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part, node)
    return tuple(_follow(schema, node).get("properties", {}))


def _follow(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Resolve a reference, and the non-null side of an optional."""
    for option in node.get("anyOf", node.get("allOf", [])):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        resolved: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return resolved
    return node
