"""Plain data written as a pickle that torch of any version reads; classes need not exist here."""

import io
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from pangu_core.checkpoint.torch_files.values import STORAGES, Instance, Named, TensorRef


def dump(value: Any) -> bytes:
    """A pickle of protocol 2 of plain data, ``Instance``, ``Named`` and ``TensorRef``."""
    out = io.BytesIO()
    out.write(b"\x80\x02")
    _emit(value, out.write)
    out.write(b".")
    return out.getvalue()


def _emit(value: Any, write: Callable[[bytes], Any]) -> None:
    """Write the instructions that build a value."""
    for kind, emit in _EMITTERS.items():
        if isinstance(value, kind):
            emit(value, write)
            return
    raise TypeError(f"{type(value).__name__} is no plain data")


def _emit_constant(value: bool | None, write: Callable[[bytes], Any]) -> None:
    write({None: b"N", True: b"\x88", False: b"\x89"}[value])


def _emit_integer(value: int, write: Callable[[bytes], Any]) -> None:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    write(b"\x8a" + bytes([len(data)]) + data)


def _emit_text(value: str, write: Callable[[bytes], Any]) -> None:
    data = value.encode()
    write(b"X" + struct.pack("<I", len(data)) + data)


def _emit_list(value: list[Any], write: Callable[[bytes], Any]) -> None:
    write(b"](")
    for item in value:
        _emit(item, write)
    write(b"e")


def _emit_tuple(value: tuple[Any, ...], write: Callable[[bytes], Any]) -> None:
    write(b"(")
    for item in value:
        _emit(item, write)
    write(b"t")


def _emit_dict(value: Mapping[Any, Any], write: Callable[[bytes], Any]) -> None:
    write(b"}(")
    for pair in value.items():
        for item in pair:
            _emit(item, write)
    write(b"u")


def _emit_name(value: Named, write: Callable[[bytes], Any]) -> None:
    write(b"c" + value.name.replace(" ", "\n").encode() + b"\n")


def _emit_instance(value: Instance, write: Callable[[bytes], Any]) -> None:
    _emit_name(Named(value.name), write)
    write(b")\x81")
    _emit(value.state, write)
    write(b"b")


def _emit_tensor(value: TensorRef, write: Callable[[bytes], Any]) -> None:
    storage = value.storage
    kind = next(name for name, dtype in STORAGES.items() if dtype == storage.dtype)
    _emit_name(Named("torch._utils _rebuild_tensor_v2"), write)
    write(b"(")
    _emit(("storage", Named(f"torch {kind}"), storage.key, "cpu", storage.size, None), write)
    write(b"Q")
    for part in (value.offset, value.shape, value.stride, False):
        _emit(part, write)
    _emit_name(Named("collections OrderedDict"), write)
    write(b")RtR")


_EMITTERS: Final[Mapping[type, Callable[[Any, Callable[[bytes], Any]], None]]] = {
    type(None): _emit_constant,
    bool: _emit_constant,  # before int, of which it is one
    int: _emit_integer,
    float: lambda value, write: write(b"G" + struct.pack(">d", value)),
    str: _emit_text,
    list: _emit_list,
    tuple: _emit_tuple,
    dict: _emit_dict,
    Named: _emit_name,
    Instance: _emit_instance,
    TensorRef: _emit_tensor,
}
