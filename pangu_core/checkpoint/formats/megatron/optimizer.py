"""The optimizer's state in the port's training files, parameter by parameter.

The port's optimizer keeps no names: two groups of parameters in the order of the modules, first
what is decayed (matrices and tables), then LayerNorms and biases. In fp16 the masters lie beside
it in the same order.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pangu_core.checkpoint.formats.megatron.names import StoredTensor
from pangu_core.checkpoint.formats.megatron.shards import Sharded, refusal
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, Group
from pangu_core.checkpoint.torch_files.reading import TorchFile
from pangu_core.checkpoint.torch_files.values import Instance, TensorRef
from pangu_core.config.train import OptimizerConfig
from pangu_core.errors import CheckpointError
from pangu_core.layout import Shape

_NAME: Final = "optimizer"
# An Instance's name: where the port has the class.
_SCALER: Final = "megatron.fp16.loss_scaler DynamicLossScaler"


def grouped(tensors: Iterable[StoredTensor], is_matrix: Mapping[str, bool]) -> list[StoredTensor]:
    """The port's tensors in the optimizer's order."""
    listed = list(tensors)
    return [t for t in listed if is_matrix[t.parameters[0]]] + [
        t for t in listed if not is_matrix[t.parameters[0]]
    ]


def read_states(
    files: Sequence[TorchFile], order: Sequence[StoredTensor]
) -> dict[tuple[Group, str], Sharded]:
    """(group, parameter) -> its moments, and its master where there is one.

    Raises:
        CheckpointError: there is no optimizer, or it is of other parameters.
    """
    found: dict[tuple[Group, str], list[TensorRef]] = {}
    for file in files:
        for key, ref in _states_of(file, order).items():
            found.setdefault(key, []).append(ref)
    cuts = {stored.parameters[0]: stored.cut for stored in order}
    return {
        (group, name): Sharded(f"{_NAME}: {group} of {name}", files, tuple(refs), cuts[name])
        for (group, name), refs in found.items()
        if len(refs) == len(files)
    }


def _states_of(
    file: TorchFile, order: Sequence[StoredTensor]
) -> dict[tuple[Group, str], TensorRef]:
    optimizer = file.content.get(_NAME)
    if not isinstance(optimizer, dict):
        raise CheckpointError(
            f"{file.path}: {_NAME}",
            seen="not in this file",
            rule="only a file of training holds the optimizer's state",
            fix="name one that training saved, or leave the optimizer out",
        )
    inner = optimizer.get("optimizer_state_dict", optimizer)
    try:
        ids = [number for group in inner["param_groups"] for number in group["params"]]
        states = [inner["state"][number] for number in ids]
        masters = [ref for group in optimizer.get("fp32_from_fp16", ()) for ref in group]
        rows: list[tuple[Group, list[Any]]] = [
            (name, [state[name] for state in states]) for name in MOMENTS
        ]
    except (KeyError, TypeError) as error:
        rule = "must be the state of the port's Adam"
        raise refusal(file, _NAME, f"no {error} where it belongs", rule) from error
    if masters:
        rows.append((MODEL, masters))
    result: dict[tuple[Group, str], TensorRef] = {}
    for group, refs in rows:
        if len(refs) != len(order) or not all(isinstance(ref, TensorRef) for ref in refs):
            rule = f"must be tensors of the model's {len(order)} parameters"
            raise refusal(file, _NAME, f"{group} of {len(refs)} parameters", rule)
        for stored, ref in zip(order, refs, strict=True):
            result[group, stored.parameters[0]] = ref
    return result


def port_state(
    tensors: Sequence[Mapping[str, TensorRef]],
    *,
    shapes: Sequence[Shape],
    settings: OptimizerConfig,
    step: int,
) -> dict[str, Any]:
    """What the port's optimizer loads: for each parameter, in its order, moments and master.

    Without masters (fp32 training) it is the state of Adam itself.
    """
    matrices = sum(len(shape) > 1 for shape in shapes)
    numbers = list(range(len(tensors)))
    common = {
        "lr": settings.learning_rate,
        "bias_correction": True,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.epsilon,
        "step": step,
    }
    groups = [
        {**common, "weight_decay": settings.weight_decay, "params": numbers[:matrices]},
        {**common, "weight_decay": 0.0, "params": numbers[matrices:]},
    ]
    states = [{name: refs[name] for name in MOMENTS} for refs in tensors]
    adam = {"state": dict(enumerate(states)), "param_groups": groups}
    if MODEL not in tensors[0]:
        return adam
    masters = [refs[MODEL] for refs in tensors]
    return {
        "loss_scaler": Instance(_SCALER, _scaler_state()),
        "dynamic_loss_scale": True,
        "overflow": False,
        "first_closure_call_this_step": True,
        "optimizer_state_dict": adam,
        "fp32_from_fp16": [masters[:matrices], masters[matrices:]],
    }


def port_schedule(settings: OptimizerConfig, *, step: int, steps: int) -> dict[str, Any]:
    """The state of the port's learning rate scheduler after ``step`` of ``steps`` updates."""
    decay_steps = settings.decay_steps or max(steps, 1)
    return {
        "start_lr": settings.learning_rate,
        "warmup_iter": settings.warmup * decay_steps,
        "num_iters": step,
        "decay_style": settings.schedule,
        "end_iter": decay_steps,
        "min_lr": settings.min_learning_rate,
    }


def _scaler_state() -> dict[str, Any]:
    """The port's dynamic loss scaler as it starts; it finds its scale within some steps."""
    return {
        "cur_scale": float(2**16),
        "cur_iter": 0,
        "last_overflow_iter": -1,
        "scale_factor": 2.0,
        "scale_window": 1000,
        "min_scale": 1,
        "delayed_shift": 2,
        "cur_hysteresis": 2,
        "consecutive_hysteresis": False,
    }
