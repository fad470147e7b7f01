"""pydantic's JSON schema -> the structural schema that a CRD needs. Pure.

References are inlined, an optional field is one that is not required, every node has a type, and
bounds are written as OpenAPI 3.0 writes them. What has no place in a structural schema becomes a
rule (the form of a mapping's keys), or is left to whoever reads the object (a value that is text
or a list).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from k8s.marks import TYPE_KEY, UNFILLED_KEY
from k8s.rules import RULES, Rule, keys_match

Schema = dict[str, Any]
RULES_KEY: Final = "x-kubernetes-validations"
OPAQUE: Final = {"x-kubernetes-preserve-unknown-fields": True}
QUANTITY: Final = "Quantity"
SOURCE: Final = "Source"
NOT_FROM_THE_ROOT: Final = "^[^/]"
PODS_CLASS: Final = "PodSettings"
BY_STAGE_CLASS: Final = "PodsByStage"
_CARRIED: Final = (
    "type", "format", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "minItems", "maxItems", "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """Where in the schema a node is, and what is written there."""

    path: tuple[str, ...] = ()
    describes: bool = True
    fills: bool = True
    """Whether the API server fills in defaults.

    Not in pods' blocks: there an absent field means the next wider one, a stage's the job's and a
    job's the cluster's.
    """

    rules: bool = True
    """Whether rules can see the value."""

    def below(self, key: str) -> "_Place":
        return replace(self, path=(*self.path, key))


def structural(schema: Schema, *, fills: bool = True) -> Schema:
    """The structural schema of a class, from pydantic's JSON schema of it.

    Args:
        schema: of a settings class or a dataclass, with aliases.
        fills: write defaults, for the API server to fill in.
    """
    inliner = _Inliner(schema.get("$defs", {}))
    return inliner.node(schema, _Place(fills=fills), schema.get("title", ""))


def walk(path: str, node: Schema) -> Iterator[tuple[str, Schema]]:
    """Every node of a structural schema with its path, such as ``.spec.train.nodes``."""
    yield path, node
    for key, child in node.get("properties", {}).items():
        yield from walk(f"{path}.{key}", child)
    for key, mark in (("items", "[*]"), ("additionalProperties", ".*")):
        if key in node:
            yield from walk(f"{path}{mark}", node[key])


@dataclass(frozen=True)
class _Inliner:
    """Writes nodes with the definitions that they refer to."""

    definitions: Mapping[str, Schema]

    def node(self, source: Schema, place: _Place, name: str = "") -> Schema:
        """One node; ``name`` is that of its settings class, if it has one."""
        if "$ref" in source:
            return self._block(source, place)
        if "anyOf" in source:
            return self._alternative(source, place)
        name = name or source.get(TYPE_KEY, "")
        result = self._described(source, place) | _plain(source)
        rules = list(RULES.get(name, ()))
        if name == QUANTITY:
            result = _int_or_string(result, {"minimum": 0})
        if "properties" in source:
            result |= self._fields(source, place)
        elif source.get("type") == "object":
            values, of_keys = self._values(source, place)
            result |= values
            rules += of_keys
        if "items" in source:
            result["items"] = self.node(source["items"], place.below("items"))
        if rules and not place.rules:
            return result | ({"pattern": NOT_FROM_THE_ROOT} if name == SOURCE else {})
        if rules:
            result[RULES_KEY] = [rule.to_dict() for rule in rules]
        return result

    def _block(self, source: Schema, place: _Place) -> Schema:
        """A node that refers to a class; what the field says of itself goes first."""
        name = source["$ref"].rsplit("/", 1)[-1]
        if name == BY_STAGE_CLASS:
            return self._by_stage(source, place)
        inside = place
        if name == PODS_CLASS:
            inside = replace(place, describes=place.path == ("pods",), fills=False)
        target = {**self.definitions[name]}
        if "description" in source:
            target["description"] = source["description"]
        result = self.node(target, inside, name)
        if "default" in source and place.fills and source["default"] is not None:
            # In full: the API server asks the block's rules about it as it stands here.
            filled = result.get("properties", {}).items()
            result["default"] = {
                key: field["default"] for key, field in filled if "default" in field
            }
        return result

    def _by_stage(self, source: Schema, place: _Place) -> Schema:
        """The blocks of the stages as a mapping: the same objects, at a seventh of the size."""
        stages = self.definitions[BY_STAGE_CLASS]["properties"]
        pods = self.node({"$ref": PODS_CLASS}, place.below("*"))
        rules = [rule.to_dict() for rule in RULES[BY_STAGE_CLASS]]
        return self._described(source, place) | {
            "type": "object",
            "default": {},
            "maxProperties": len(stages),
            "additionalProperties": pods,
            RULES_KEY: rules,
        }

    def _alternative(self, source: Schema, place: _Place) -> Schema:
        """The non-null side of an optional; or one of two types."""
        around = {key: value for key, value in source.items() if key != "anyOf"}
        options = [option for option in source["anyOf"] if option.get("type") != "null"]
        if len(options) == 1:
            return self.node({**options[0], **around}, place)
        described = self._described(source, place)
        one, other = options
        if other.get("type") == "string":
            return _int_or_string(described, _plain(one) | _plain(other))
        # Text or a list: no structural schema can say that, and no rule can see the value. The
        # reader of the object checks it; but for what is wrong most often, a path from the root.
        blind = replace(place, rules=False)
        both = self.node(one, blind) | self.node(other, blind)
        return described | OPAQUE | {key: value for key, value in both.items() if key != "type"}

    def _fields(self, source: Schema, place: _Place) -> Schema:
        fields = {
            key: self.node(field, place.below(key)) | _default(field, place)
            for key, field in source["properties"].items()
        }
        required = {"required": source["required"]} if source.get("required") else {}
        return {"properties": fields} | required

    def _values(self, source: Schema, place: _Place) -> tuple[Schema, list[Rule]]:
        """What a mapping without fixed fields holds, and the rules about its keys."""
        values = source.get("additionalProperties", True)
        rules = []
        if "patternProperties" in source:
            ((pattern, values),) = source["patternProperties"].items()
            rules = [keys_match(pattern)]
        if values is True:
            return dict(OPAQUE), rules
        return {"additionalProperties": self.node(values, place.below("*"))}, rules

    def _described(self, source: Schema, place: _Place) -> Schema:
        text = " ".join(source.get("description", "").split()).replace("``", "`")
        if not text or not place.describes:
            return {}
        value = source.get("default")
        shown = value and _is_scalar(value) and not _default(source, place)
        return {"description": f"{text} Default: {value}." if shown else text}


def _plain(source: Schema) -> Schema:
    """The parts of a node that a structural schema has too."""
    result: Schema = {key: source[key] for key in _CARRIED if key in source}
    if "const" in source:
        result["enum"] = [source["const"]]
    for bound, exclusive, step in (
        ("minimum", "exclusiveMinimum", 1),
        ("maximum", "exclusiveMaximum", -1),
    ):
        if exclusive in source and source.get("type") == "integer":
            result[bound] = source[exclusive] + step
        elif exclusive in source:
            result |= {bound: source[exclusive], exclusive: True}
    return result


def _int_or_string(around: Schema, bounds: Schema) -> Schema:
    result = {key: value for key, value in (around | bounds).items() if key != "type"}
    if "enum" in result:  # of the text only, and an enum would hold for the number too
        result["pattern"] = f"^({'|'.join(result.pop('enum'))})$"
    return result | {"x-kubernetes-int-or-string": True}


def _default(field: Schema, place: _Place) -> Schema:
    """The default of a scalar; what is empty by default stays absent."""
    value = field.get("default")
    is_filled = _is_scalar(value) and place.fills and UNFILLED_KEY not in field
    return {"default": value} if is_filled else {}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)
