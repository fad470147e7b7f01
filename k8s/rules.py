"""The static rules of job and service files in CEL: what we refuse, the API server refuses too.

Each says what a validator of k8s.spec, k8s.blocks, k8s.placement or pangu_core.config says in
Python, in the same words where CEL can; tests/k8s/bad_objects holds an object against both. CEL
knows nothing but the object: numbers reach a message by ``format``, since ``string(int)`` is too
costly for the API server's budget.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from k8s import names
from k8s.blocks import REMOTE_SCHEMES, STORE_SCHEME
from pangu_core.config.model import PRESETS, ModelConfig


@dataclass(frozen=True)
class Rule:
    """One rule about the value at a node, ``self``."""

    holds: str
    """CEL that is true of a good value."""
    says: str
    """The rule and what to do, for people; %d and %s stand for the values of ``given``."""
    given: tuple[str, ...] = ()
    """CEL of the values in the message."""
    field: str = ""
    """The field below the node that the message is about, such as ``.train.steps``."""
    forbids: bool = False
    """A change is refused, not a value."""

    def to_dict(self) -> dict[str, str]:
        """The entry of x-kubernetes-validations."""
        entry = {"rule": self.holds}
        if self.given:
            quoted = self.says.replace("\\", "\\\\").replace("'", "\\'")
            entry["messageExpression"] = f"'{quoted}'.format([{', '.join(self.given)}])"
        else:
            entry["message"] = self.says
        if self.field:
            entry["fieldPath"] = self.field
        if self.forbids:
            entry["reason"] = "FieldValueForbidden"
        return entry


def keys_match(pattern: str) -> Rule:
    """The rule for a mapping whose keys have a form; a structural schema cannot say it."""
    return Rule(f"self.all(k, k.matches('{pattern}'))", f"has a key that does not match {pattern}")


def _any(*conditions: str) -> str:
    return " || ".join(conditions)


def _has(*fields: str) -> tuple[str, ...]:
    return tuple(f"has(self.{field})" for field in fields)


def _list(values: Any) -> str:
    return f"[{', '.join(repr(value) for value in values)}]"


def _one_of(*fields: str) -> Rule:
    count = f"[{', '.join(_has(*fields))}].filter(x, x).size() == 1"
    holds = " != ".join(_has(*fields)) if len(fields) == 2 else count
    return Rule(holds, f"must have exactly one of {', '.join(fields)}; keep one of them")


def _store_of(address: str) -> Rule:
    """The rule of a block whose endpoint and Secret are for one address in it."""
    return Rule(
        f"!has(self.endpoint) && !has(self.secretRef) || has({address}) && "
        f"{address}.startsWith('{STORE_SCHEME}://')",
        "has endpoint or secretRef, which are for an address that begins with s3://; remove them",
    )


def _mounts_name_volumes(mounts: str, volumes: str, *, when: str = "") -> Rule:
    """The rule for two lists that may be absent; ``when`` says that it is these two which meet.

    Spelled out with ``has``: of a list behind ``? :`` the API server does not know the bound.
    """
    named = f"{mounts}.all(m, {volumes}.exists(v, v.name == m.name))"
    holds = f"!has({mounts}) || {mounts}.size() == 0 || has({volumes}) && {named}"
    return Rule(
        f"!({when}) || {holds}" if when else holds,
        "must name one of the volumes; add the volume, or mend the name",
    )


def _divides_the_heads(ranks: str, *, guard: str = "") -> Rule:
    heads = f"(has(self.model.preset) ? {_PRESET_HEADS}[self.model.preset] : self.model.numHeads)"
    known = "!has(self.model.preset) && !has(self.model.numHeads)"
    unset = f"{guard} || " if guard else ""
    return Rule(
        f"{unset}{known} || {heads} % self.{ranks} == 0",
        "must divide the number of attention heads (%d); choose a number that does",
        given=(heads,),
        field=f".{ranks}",
    )


def _whole_groups(bound: str) -> Rule:
    ranks, processes = "self.tensorParallel", "self.nodes.processesPerNode"
    return Rule(
        f"{ranks} % {processes} != 0 || self.nodes.{bound} % ({ranks} / {processes}) == 0",
        "%d x %d processes must form whole groups of %d ranks; use a multiple of %d nodes",
        given=(f"self.nodes.{bound}", processes, ranks, f"{ranks} / {processes}"),
        field=f".nodes.{bound}",
    )


def _preset_map(sizes: dict[str, int]) -> str:
    return f"{{{', '.join(f'{name!r}: {size}' for name, size in sizes.items())}}}"


_PRESET_HEADS: Final = _preset_map({name: size.num_heads for name, size in PRESETS.items()})
_POSITIONS: Final = (
    "(has(self.model.preset) ? "
    f"{_preset_map({name: size.sequence_length for name, size in PRESETS.items()})}"
    "[self.model.preset] : has(self.model.sequenceLength) ? self.model.sequenceLength : "
    f"{ModelConfig.model_fields['sequence_length'].default})"
)
_SIZES: Final = ("numLayers", "hiddenSize", "numHeads")
_ALL_SIZES: Final = (*_SIZES, "vocabSize", "sequenceLength")
_OF_A_MODEL: Final = (*_ALL_SIZES, "layerNormEpsilon", "activation", "initStd")
_INSIDE: Final = (
    "!self.startsWith('/') && !self.contains('://') && !self.split('/').exists(p, p == '..')"
)
_COPY_IT: Final = "copy the data into the workspace and name it from there"
_OUR_MOUNTS: Final = "|".join(("", *names.MOUNTS.values()))
_SHARE: Final = "^ *[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)? *$"
_RESERVED_DOMAINS: Final = "|".join(d.replace(".", "[.]") for d in names.RESERVED_LABEL_DOMAINS)
_RESERVED_KEYS: Final = "|".join(key.replace(".", "[.]") for key in names.RESERVED_LABELS)
_RESERVED_LABEL: Final = f"^(({_RESERVED_DOMAINS})(/.*)?|{_RESERVED_KEYS})$"
_OWN_MOUNTS: Final = replace(
    _mounts_name_volumes("self.pods.volumeMounts", "self.pods.volumes"),
    field=".pods.volumeMounts",
)


def _stage_mounts(*, own_mounts: bool, own_volumes: bool) -> Rule:
    """The rule for stages that set one or both of the lists, each instead of the job-wide one."""
    stage = "self.podsByStage[s]"
    rule = _mounts_name_volumes(
        f"{stage if own_mounts else 'self.pods'}.volumeMounts",
        f"{stage if own_volumes else 'self.pods'}.volumes",
        when=f"{'' if own_mounts else '!'}has({stage}.volumeMounts) && "
        f"{'' if own_volumes else '!'}has({stage}.volumes)",
    )
    return replace(rule, holds=f"self.podsByStage.all(s, {rule.holds})", field=".podsByStage")


_JOB_SPEC: Final = (
    _divides_the_heads("train.tensorParallel"),
    _divides_the_heads("split.tensorParallel", guard="!has(self.split.tensorParallel)"),
    _divides_the_heads("serve.tensorParallel", guard="!has(self.serve)"),
    Rule(
        "!has(self.train.sequenceLength) || !has(self.model.preset) && !has(self.model.numLayers)"
        f" || self.train.sequenceLength <= {_POSITIONS}",
        "must not exceed the position table (%d rows); use at most that, or a model with a longer "
        "table",
        given=(_POSITIONS,),
        field=".train.sequenceLength",
    ),
    Rule(
        "!self.split.always || has(self.model.from)",
        "splits the weights that training starts from, and model.from names none; add model.from, "
        "or remove split",
        field=".split.always",
    ),
    Rule(
        "!has(self.workspace.accessMode) || self.workspace.accessMode != 'ReadWriteOnce'"
        " || self.train.nodes.max == 1 && !has(self.serve)"
        f" || has(self.pods.nodeSelector) && '{names.HOST_LABEL}' in self.pods.nodeSelector",
        "more than one pod uses the volume, and they may run on several nodes; use ReadWriteMany, "
        f"or pin pods.nodeSelector {names.HOST_LABEL} to one node",
        field=".workspace.accessMode",
    ),
    replace(
        _OWN_MOUNTS,
        holds=f"self.podsByStage.size() == {len(names.STAGES)} && self.podsByStage.all(s, "
        "has(self.podsByStage[s].volumeMounts) || has(self.podsByStage[s].volumes)) || "
        f"{_OWN_MOUNTS.holds}",
    ),
    _stage_mounts(own_mounts=True, own_volumes=True),
    _stage_mounts(own_mounts=True, own_volumes=False),
    _stage_mounts(own_mounts=False, own_volumes=True),
)

# By the name of the settings class, or of the type that is marked with it.
RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "JobSpec": _JOB_SPEC,
    "ServiceSpec": (
        Rule(
            "has(self.workspace.claimName)",
            "must name an existing claim: a model is in it; use claimName",
            field=".workspace",
        ),
        _OWN_MOUNTS,
    ),
    "PodsByStage": (
        Rule(
            f"self.all(stage, stage in {_list(names.STAGES)})",
            f"has a key that is no stage; use one of {', '.join(names.STAGES)}",
        ),
    ),
    "WorkspaceBlock": (
        _one_of("claimName", "size"),
        Rule(
            "!has(self.claimName) || !has(self.storageClassName) && !has(self.accessMode)",
            "has storageClassName or accessMode, which are for a claim to make; remove them, or "
            "write size instead of claimName",
        ),
        Rule(
            "!has(self.accessMode) || self.accessMode != 'ReadWriteOncePod'",
            "accessMode must let more than one pod use the volume; use ReadWriteMany, or "
            "ReadWriteOnce for one node",
        ),
    ),
    "ModelBlock": (
        Rule(
            f"!has(self.preset) || !({_any(*_has(*_ALL_SIZES))})",
            "must not have both a preset and sizes; keep one of them",
        ),
        Rule(
            f"has(self.preset) || !({_any(*_has(*_OF_A_MODEL))}) || {' && '.join(_has(*_SIZES))}",
            "needs numLayers, hiddenSize and numHeads together; add the missing ones",
        ),
        Rule(
            _any(*_has("preset", "from", *_OF_A_MODEL)),
            "says nothing about the network; add preset, from, or numLayers and the other sizes",
        ),
        Rule(
            "!has(self.hiddenSize) || !has(self.numHeads) || self.hiddenSize % self.numHeads == 0",
            "must divide model.hiddenSize (%d); choose a number that does",
            given=("self.hiddenSize",),
            field=".numHeads",
        ),
        _store_of("self.from"),
    ),
    "DataBlock": (
        Rule(
            f"self.split.split(',').size() <= 3 && self.split.split(',').all(x, "
            f"x.matches('{_SHARE}')) && self.split.matches('(^|,)[^eE,]*[1-9]')",
            "must be one to three numbers, none negative, not all zero; write for example "
            '"949,50,1"',
            field=".split",
        ),
    ),
    "ExportBlock": (
        _store_of("self.to"),
        Rule(
            "!has(self.to) || !self.to.startsWith('https://')",
            "to is an address of the web, which cannot be written; use s3://",
        ),
    ),
    "NodesConfig": (
        Rule(
            "self.min <= self.max",
            "must not exceed train.nodes.max (%d); lower min or raise max",
            given=("self.max",),
            field=".min",
        ),
    ),
    "TrainSettings": (
        Rule(
            "self.tensorParallel % self.nodes.processesPerNode == 0"
            " || self.nodes.processesPerNode % self.tensorParallel == 0",
            "must divide nodes.processesPerNode (%d) or be a multiple of it; choose such a number",
            given=("self.nodes.processesPerNode",),
            field=".tensorParallel",
        ),
        _whole_groups("min"),
        _whole_groups("max"),
    ),
    "AutoscaleBlock": (
        _one_of("waiting", "cpuPercent"),
        Rule(
            "!has(self.prometheus) || has(self.waiting)",
            "has prometheus, which is for waiting; remove it",
        ),
        Rule(
            "self.min <= self.max",
            "min must not exceed max (%d); lower min or raise max",
            given=("self.max",),
        ),
    ),
    "VariableSource": (_one_of("secretKeyRef", "configMapKeyRef"),),
    "Variable": (_one_of("value", "valueFrom"),),
    "VariablesSource": (_one_of("configMapRef", "secretRef"),),
    "Volume": (_one_of("configMap", "secret", "persistentVolumeClaim", "emptyDir", "csi"),),
    "WorkspacePath": (
        Rule(
            f"self != '' && {_INSIDE}",
            f"must be relative to the workspace and stay inside it; {_COPY_IT}",
        ),
    ),
    "Source": (
        Rule(
            f"!self.contains('://') || {_list(REMOTE_SCHEMES)}.exists(s, self.startsWith(s + '://'))",
            f"must be a path in the workspace, or start with https://, s3:// or pvc://; {_COPY_IT}",
        ),
        Rule(
            "!self.contains('://') || self.matches('^[a-z0-9]+://[^/?]+/+[^/?]')"
            " && !self.split('/').exists(p, p == '..')",
            "must name a host, bucket or claim and something in it, without ..; write for example "
            "s3://bucket/folder",
        ),
        Rule(
            f"self.contains('://') || self != '' && {_INSIDE}",
            f"must be relative to the workspace and stay inside it; {_COPY_IT}",
        ),
    ),
    "VariableName": (
        Rule(
            f"!self.matches('^({'|'.join(names.RESERVED_VARIABLE_PREFIXES)}|{names.HOME_VARIABLE}$)')",
            "is set by us (PET_*, PANGU_*, HOME); choose another name",
        ),
    ),
    "VolumeName": (
        Rule(
            f"!(self in {_list(names.MOUNTS)})",
            "is the name of a volume of ours; choose another name",
        ),
    ),
    "MountPath": (
        Rule(
            f"self.startsWith('/') && !self.matches('^({_OUR_MOUNTS})/*$')",
            "must be an absolute path that we do not use; mount it elsewhere",
        ),
    ),
    "OwnLabels": (
        Rule(
            f"!self.exists(k, k.matches('{_RESERVED_LABEL}'))",
            "%s is set by us; choose another key",
            given=(f"self.filter(k, k.matches('{_RESERVED_LABEL}'))[0]",),
        ),
    ),
}

# About the whole object; of its metadata, the API server lets rules see the name only.
ROOT_RULES: Final = (
    Rule(
        "self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "metadata.name must be lower-case letters, digits and '-', begin with a letter, not end "
        "with '-'; choose another name",
    ),
    Rule(
        f"self.metadata.name.size() <= {names.JOB_NAME_LIMIT}",
        f"metadata.name must have at most {names.JOB_NAME_LIMIT} characters, so that the names of "
        f"its pods fit in {names.NAME_LIMIT}; shorten it by %d",
        given=(f"self.metadata.name.size() - {names.JOB_NAME_LIMIT}",),
    ),
)
