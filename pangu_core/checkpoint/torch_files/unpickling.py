"""Pickles read as data: no class is imported, nothing is called.

A pickle is a program for a small stack machine, and Python's own machine runs whatever it names.
This one knows the instructions that plain data and tensors need, builds stand-ins for the few
classes of the allow-list, and refuses any other name. Files of the Megatron port come from
strangers, and most are of the old kind, which ``torch.load`` can neither map nor read in parts.
"""

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pangu_core.checkpoint.torch_files.values import (
    STORAGES,
    Instance,
    Named,
    StorageRef,
    TensorRef,
    refusal,
)
from pangu_core.layout import Shape

# A training file of the 13B model takes about 100,000 instructions in 3 MB.
MAX_BYTES: Final = 16 << 20
MAX_INSTRUCTIONS: Final = 1_000_000
MAX_INTEGER_BYTES: Final = 16
_DTYPES: Final = ("float16", "half", "bfloat16", "float32", "float", "float64", "int64", "uint8")


def load(data: bytes, source: Path, offset: int = 0) -> tuple[Any, int]:
    """The value of a pickle at the start of ``data``, and how many bytes it takes.

    Args:
        data: the pickle, and perhaps more behind it.
        source: the file, for messages.
        offset: where ``data`` begins in that file, for messages.

    Raises:
        CheckpointError: it is no pickle, names what is not allowed, or is of unreasonable size.
    """
    machine, stream = _Machine(), io.BytesIO(data[:MAX_BYTES])
    position = 0
    try:
        for count, (opcode, argument, at) in enumerate(pickletools.genops(stream)):
            position = at or 0
            if count >= MAX_INSTRUCTIONS:
                raise _Refused(f"more than {MAX_INSTRUCTIONS} instructions")
            machine.step(opcode.name, argument)
        return machine.result(), stream.tell()
    except _Refused as error:
        raise refusal(source, offset + position, str(error)) from error
    # What damaged bytes raise in the parser and on the stack.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        seen = f"{type(error).__name__} in a damaged pickle"
        raise refusal(source, offset + position, seen) from error


class _Refused(Exception):  # noqa: N818 - becomes a CheckpointError with its place
    """Something that may not be in a pickle."""


@dataclass
class _Machine:
    """The stack machine: values, marks between them, and the memo of values used twice."""

    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise _Refused(f"instruction {name}, which data does not need")

    def result(self) -> Any:
        (value,) = self.stack
        return value

    def items(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def integer(self, value: Any) -> None:
        if value.bit_length() > 8 * MAX_INTEGER_BYTES:
            raise _Refused(f"an integer of {value.bit_length()} bits")
        self.stack.append(value)

    def remember(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    def tuple_of_items(self, _: Any) -> None:
        items = self.items()  # changes the stack
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        cut = len(self.stack) - count
        if cut < 0:
            raise IndexError(count)
        self.stack[cut:] = [tuple(self.stack[cut:])]

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        _expect(self.stack[-1], list).append(value)

    def append_all(self, _: Any) -> None:
        items = self.items()
        _expect(self.stack[-1], list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], key, value)

    def set_items(self, _: Any) -> None:
        items = self.items()
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(self.stack[-1], key, value)

    def name(self, argument: Any) -> None:
        if argument is None:
            last, module = self.stack.pop(), self.stack.pop()
            argument = f"{_expect(module, str)} {_expect(last, str)}"
        if argument not in _ALLOWED:
            raise _Refused(f"it names {argument.replace(' ', '.')}")
        self.stack.append(Named(argument))

    def call(self, _: Any) -> None:
        arguments, function = _expect(self.stack.pop(), tuple), _expect(self.stack.pop(), Named)
        if function.name not in _BUILDERS:
            raise _Refused(f"it calls {function.name.replace(' ', '.')}")
        self.stack.append(_BUILDERS[function.name](*arguments))

    def new_object(self, _: Any) -> None:
        _expect(self.stack.pop(), tuple)
        self.stack.append(_instance(self.stack.pop()))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance):
            target.state = state
        else:
            _expect(target, dict)  # an OrderedDict's attributes say nothing of tensors

    def storage(self, _: Any) -> None:
        kind, storage, key, _location, size, *view = _expect(self.stack.pop(), tuple)
        dtype = STORAGES.get(_expect(storage, Named).name.rpartition(" ")[2])
        if kind != "storage" or dtype is None or any(part is not None for part in view):
            raise _Refused("a reference to something that is no plain storage")
        self.stack.append(StorageRef(_expect(key, str), dtype, _size(size)))


def _expect(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _Refused("a size that is none")
    return value


def _sizes(values: Any) -> Shape:
    return tuple(_size(value) for value in _expect(values, tuple))


def _put(target: Any, key: Any, value: Any) -> None:
    # Hashing a tuple that holds itself twice, forty times over, would take for ever.
    if not isinstance(key, str | int | float | None):
        raise _Refused(f"a {type(key).__name__} as a key")
    _expect(target, dict)[key] = value


def _instance(kind: Any, *_: Any) -> Instance:
    if _expect(kind, Named).name not in _CLASSES:
        raise _Refused(f"an object of {kind.name.replace(' ', '.')}")
    return Instance(kind.name)


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for pair in pairs:
        _put(result, *pair)
    return result


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRef:
    ref = TensorRef(_expect(storage, StorageRef), _size(offset), _sizes(shape), _sizes(stride))
    if len(ref.shape) != len(ref.stride):
        raise _Refused("a tensor of as many sizes as not strides")
    return ref


def _opaque(name: str) -> Callable[..., Instance]:
    return lambda *_: Instance(name)


_LITERALS: Final = (
    *("BININT", "BININT1", "BININT2", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_CONSTANTS: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": _Machine.mark,
    "LONG1": _Machine.integer,
    "LONG4": _Machine.integer,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "TUPLE": _Machine.tuple_of_items,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_all,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new_object,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
# Objects of the port's training files: their attributes are kept, their classes never loaded.
_CLASSES: Final = frozenset(
    (
        "argparse Namespace",
        "megatron.fp16.loss_scaler DynamicLossScaler",
        "megatron.fp16.loss_scaler LossScaler",
    )
)
_BUILDERS: Final[Mapping[str, Callable[..., Any]]] = {
    "collections OrderedDict": _ordered,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: _expect(tensor, TensorRef),
    "torch Size": lambda sizes: _sizes(sizes),
    "copy_reg _reconstructor": _instance,
    "copyreg _reconstructor": _instance,
    # The state of numpy's random numbers, which is not used.
    "numpy.core.multiarray _reconstruct": _opaque("numpy array"),
    "numpy._core.multiarray _reconstruct": _opaque("numpy array"),
    "numpy dtype": _opaque("numpy dtype"),
    "_codecs encode": _opaque("bytes"),
}
_ALLOWED: Final = frozenset(
    chain(
        _CLASSES,
        _BUILDERS,
        ("numpy ndarray", "__builtin__ object", "builtins object"),
        (f"torch {name}" for name in (*_DTYPES, *STORAGES)),
        (f"torch.cuda {name}" for name in STORAGES),
    )
)
