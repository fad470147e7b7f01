"""The protobuf wire format, read field by field from bytes that may be a mapped file.

Nothing is copied but varints and what a caller asks for, and no length is believed before it was
compared with what is there: hostile files end in a WireError, soon and without much memory.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

Buffer = bytes | mmap.mmap
# Seven bits a byte, 64 bits at most.
MAX_VARINT_BYTES: Final = 10
# Fields of a message, if its reader knows no better; each repeated number counts.
MAX_FIELDS: Final = 64
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """Bytes that are not what they should be; callers add the file's name."""

    def __init__(self, offset: int, seen: str) -> None:
        super().__init__(f"offset {offset}: {seen}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    number: int
    kind: int  # wire type
    offset: int  # where the field begins
    start: int  # its content in the buffer
    stop: int
    value: int = 0  # of a varint


def fields(data: Buffer, start: int, stop: int, limit: int = MAX_FIELDS) -> Iterator[Field]:
    """The fields of the message that lies in data[start:stop], in order.

    Raises:
        WireError: no protobuf message, one that is cut short, or one of more than ``limit`` fields.
    """
    count = 0
    while start < stop:
        count += 1
        if count > limit:
            raise WireError(start, f"more than {limit} fields")
        key, content = read_varint(data, start, stop)
        number, kind = key >> 3, key & 7
        if not number:
            raise WireError(start, "a field of number 0")
        if kind == VARINT:
            value, after = read_varint(data, content, stop)
            yield Field(number, kind, start, content, after, value)
        else:
            content, after = _extent(data, kind, start, content, stop)
            yield Field(number, kind, start, content, after)
        start = after


def read_varint(data: Buffer, start: int, stop: int) -> tuple[int, int]:
    """An unsigned number of up to 64 bits, and the offset behind it.

    Raises:
        WireError: it does not end in time.
    """
    value = 0
    for place, byte in enumerate(data[start : min(stop, start + MAX_VARINT_BYTES)]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, start + place + 1
    raise WireError(start, "a number that does not end")


def read_text(data: Buffer, field: Field, max_bytes: int) -> str:
    """A string field.

    Raises:
        WireError: it is no string, too long, or not UTF-8.
    """
    check_kind(field, BYTES)
    if field.stop - field.start > max_bytes:
        raise WireError(field.offset, f"a text of {field.stop - field.start} bytes")
    try:
        return data[field.start : field.stop].decode()
    except UnicodeDecodeError as error:
        raise WireError(field.offset, "a text that is not UTF-8") from error


def read_numbers(data: Buffer, field: Field, max_count: int) -> list[int]:
    """The signed numbers of a repeated int64 field, which may be packed.

    Raises:
        WireError: it holds something else, or more than ``max_count`` numbers.
    """
    if field.kind == VARINT:
        return [signed(field.value)]
    check_kind(field, BYTES)
    numbers, start = [], field.start
    while start < field.stop:
        value, start = read_varint(data, start, field.stop)
        numbers.append(signed(value))
        if len(numbers) > max_count:
            raise WireError(field.offset, f"more than {max_count} numbers")
    return numbers


def check_kind(field: Field, kind: int) -> None:
    """Refuse a field of another wire type than expected.

    Raises:
        WireError: see above.
    """
    if field.kind != kind:
        raise WireError(field.offset, f"field {field.number} of wire type {field.kind}")


def signed(value: int) -> int:
    """Two's complement of 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def varint(value: int) -> bytes:
    """A number of up to 64 bits as it is written; negative ones in two's complement."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_head(number: int, length: int) -> bytes:
    """What stands before the content of a string, bytes or message field."""
    return varint(number << 3 | BYTES) + varint(length)


def bytes_field(number: int, content: bytes) -> bytes:
    """A whole string, bytes or message field."""
    return bytes_head(number, len(content)) + content


def varint_field(number: int, value: int) -> bytes:
    """A whole number field."""
    return varint(number << 3 | VARINT) + varint(value)


def _extent(data: Buffer, kind: int, start: int, content: int, stop: int) -> tuple[int, int]:
    """First byte and end of a field's content."""
    if kind == BYTES:
        length, content = read_varint(data, content, stop)
    elif kind in _FIXED_SIZES:
        length = _FIXED_SIZES[kind]
    else:
        raise WireError(start, f"a field of wire type {kind}")
    if length > stop - content:
        raise WireError(start, f"a field of {length} bytes where {stop - content} are left")
    return content, content + length
