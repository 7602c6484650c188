"""The WebAssembly binary format, as far as agent modules need it: sections and a small assembler.

The assembler reads the linear form of the text format (one mnemonic after another, immediates
behind it, locals as `$name`, branches by depth) and knows only the instructions in its table:
no relaxed SIMD, no indirect calls, no memory growth.

Source: https://webassembly.github.io/spec/core/binary/
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from shared.errors import ArtifactError

__all__ = [
    "CODE",
    "CUSTOM",
    "DATA",
    "EXPORT",
    "FUNCTION",
    "GLOBAL",
    "HEADER_BYTES",
    "IMPORT",
    "MEMORY",
    "TYPE",
    "Function",
    "FunctionType",
    "Section",
    "assemble",
    "decode",
    "encode",
    "name",
    "read_uleb",
    "sleb",
    "uleb",
    "vector",
]

CUSTOM, TYPE, IMPORT, FUNCTION, MEMORY, GLOBAL, EXPORT, CODE, DATA = 0, 1, 2, 3, 5, 6, 7, 10, 11

_HEADER = b"\0asm\1\0\0\0"
HEADER_BYTES = len(_HEADER)
_VALUE_TYPES = {"i32": 0x7F, "i64": 0x7E, "f32": 0x7D, "v128": 0x7B}

_PLAIN = {
    "else": 0x05,
    "end": 0x0B,
    "return": 0x0F,
    "i32.eqz": 0x45,
    "i32.eq": 0x46,
    "i32.lt_u": 0x49,
    "i32.ge_u": 0x4F,
    "i64.ne": 0x52,
    "f32.gt": 0x5E,
    "f32.ge": 0x60,
    "i32.add": 0x6A,
    "i32.sub": 0x6B,
    "i32.mul": 0x6C,
    "i32.shl": 0x74,
    "i32.shr_u": 0x76,
    "i64.ctz": 0x7A,
    "i64.add": 0x7C,
    "i64.and": 0x83,
    "i64.or": 0x84,
    "i64.shl": 0x86,
    "f32.add": 0x92,
    "f32.sub": 0x93,
    "f32.div": 0x95,
    "i32.wrap_i64": 0xA7,
    "i64.extend_i32_u": 0xAD,
    "f32.convert_i32_u": 0xB3,
}
_BLOCK = {"block": 0x02, "loop": 0x03, "if": 0x04}  # all without a result
_INDEX = {
    "br_if": 0x0D,
    "call": 0x10,
    "local.get": 0x20,
    "local.set": 0x21,
    "local.tee": 0x22,
}
_CONSTANT = {"i32.const": 0x41, "i64.const": 0x42}
_MEMORY = {
    "i32.load": (0x28, 2),
    "f32.load": (0x2A, 2),
    "i32.store": (0x36, 2),
    "f32.store": (0x38, 2),
}
_SIMD = {
    "f32x4.splat": 0x13,
    "i8x16.ne": 0x24,
    "i8x16.bitmask": 0x64,
    "i8x16.narrow_i16x8_s": 0x65,
    "i16x8.extend_low_i8x16_s": 0x87,
    "i16x8.extend_high_i8x16_s": 0x88,
    "i16x8.narrow_i32x4_s": 0x85,
    "i32x4.add": 0xAE,
    "i32x4.sub": 0xB1,
    "i32x4.max_s": 0xB8,
    "i32x4.dot_i16x8_s": 0xBA,
    "f32x4.abs": 0xE0,
    "f32x4.add": 0xE4,
    "f32x4.mul": 0xE6,
    "f32x4.div": 0xE7,
    "f32x4.pmax": 0xEB,
    "f32x4.convert_i32x4_s": 0xFA,
}
_SIMD_MEMORY = {  # opcode, log2 of the alignment
    "v128.load": (0x00, 4),
    "v128.load8x8_s": (0x01, 3),
    "v128.load32_splat": (0x09, 2),
    "v128.store": (0x0B, 4),
}


@dataclass(frozen=True)
class FunctionType:
    """Name the value types a function takes and gives."""

    params: tuple[str, ...]
    results: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the type's bytes."""
        sides = (bytes(_VALUE_TYPES[t] for t in side) for side in (self.params, self.results))
        return b"\x60" + b"".join(uleb(len(side)) + side for side in sides)


@dataclass(frozen=True)
class Function:
    """Hold one function: its name for `call`, signature, local names by type, and text body."""

    name: str
    params: tuple[tuple[str, str], ...]  # (name, value type)
    results: tuple[str, ...]
    locals: tuple[tuple[str, str], ...]
    body: str

    @property
    def type(self) -> FunctionType:
        """Return the function's type."""
        return FunctionType(tuple(t for _, t in self.params), self.results)


@dataclass(frozen=True)
class Section:
    """Hold one section; `name` is for custom sections, whose payload comes without it."""

    id: int
    payload: bytes
    name: str = ""

    def encode(self) -> bytes:
        """Return id, size and content."""
        content = name(self.name) + self.payload if self.id == CUSTOM else self.payload
        return bytes([self.id]) + uleb(len(content)) + content


def uleb(value: int) -> bytes:
    """Return unsigned LEB128 in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sleb(value: int) -> bytes:
    """Return signed LEB128 in its shortest form."""
    out = bytearray()
    while not -64 <= value < 64:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
    return bytes(out)


def read_uleb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned 32-bit LEB128 and the offset behind it. Raises ArtifactError."""
    value = 0
    for i in range(5):
        if at + i >= len(data):
            break
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise ArtifactError(f"module is cut off or malformed at byte {at}: fetch the file again")


def name(text: str) -> bytes:
    """Return a length-prefixed UTF-8 string."""
    data = text.encode()
    return uleb(len(data)) + data


def vector(items: Sequence[bytes]) -> bytes:
    """Return a count followed by the items."""
    return uleb(len(items)) + b"".join(items)


def encode(sections: Iterable[Section]) -> bytes:
    """Return a whole module."""
    return _HEADER + b"".join(section.encode() for section in sections)


def decode(untrusted_data: bytes, max_sections: int) -> list[Section]:
    """Split a module into sections without reading them.

    Raises ArtifactError if it is cut off, is no core module or has more than `max_sections`.
    """
    if untrusted_data[:8] != _HEADER:
        raise ArtifactError("not a WebAssembly 1 core module (wrong header): fetch the file again")
    sections: list[Section] = []
    at = HEADER_BYTES
    while at < len(untrusted_data):
        if len(sections) == max_sections:
            raise ArtifactError(f"module has more than {max_sections} sections: not one of ours")
        section_id = untrusted_data[at]
        size, start = read_uleb(untrusted_data, at + 1)
        content, at = untrusted_data[start : start + size], start + size
        if len(content) != size:
            raise ArtifactError(
                f"module is cut off: section {section_id} needs {size} bytes, {len(content)} are "
                "there; fetch the file again"
            )
        if section_id != CUSTOM:
            sections.append(Section(section_id, content))
            continue
        length, begin = read_uleb(content, 0)
        try:
            title = content[begin : begin + length].decode()
        except UnicodeDecodeError as error:
            raise ArtifactError("a custom section's name is not UTF-8: not one of ours") from error
        sections.append(Section(CUSTOM, content[begin + length :], title))
    return sections


def assemble(function: Function, function_indices: dict[str, int]) -> bytes:
    """Return the code entry of `function`; `call $name` is looked up in `function_indices`."""
    declared = [*function.params, *function.locals]
    local_indices = {local: i for i, (local, _) in enumerate(declared)}
    if len(local_indices) != len(declared):
        raise ValueError(f"{function.name}: a local's name is used twice")
    groups: list[tuple[int, str]] = []
    for _, kind in function.locals:
        if groups and groups[-1][1] == kind:
            groups[-1] = (groups[-1][0] + 1, kind)
        else:
            groups.append((1, kind))
    head = vector([uleb(count) + bytes([_VALUE_TYPES[kind]]) for count, kind in groups])
    words = iter(function.body.split())
    code = bytearray()
    for word in words:
        code += _instruction(word, words, local_indices, function_indices)
    body = head + bytes(code) + b"\x0b"
    return uleb(len(body)) + body


def _instruction(
    word: str, rest: Iterator[str], local_indices: dict[str, int], functions: dict[str, int]
) -> bytes:
    """Encode one instruction, taking its immediates from `rest`."""
    if word in _PLAIN:
        return bytes([_PLAIN[word]])
    if word in _BLOCK:
        return bytes([_BLOCK[word], 0x40])
    if word in _INDEX:
        index = next(rest)
        known = functions if word == "call" else local_indices
        return bytes([_INDEX[word]]) + uleb(known[index[1:]] if index[0] == "$" else int(index))
    if word in _CONSTANT:
        return bytes([_CONSTANT[word]]) + sleb(int(next(rest)))
    if word == "f32.const":
        return b"\x43" + struct.pack("<f", float(next(rest)))
    if word in _MEMORY:
        opcode, align = _MEMORY[word]
        return bytes([opcode, align]) + uleb(int(next(rest)))
    if word == "i8x16.shuffle":
        return b"\xfd" + uleb(0x0D) + bytes(int(next(rest)) for _ in range(16))
    if word == "f32x4.extract_lane":
        return b"\xfd\x1f" + bytes([int(next(rest))])
    if word in _SIMD:
        return b"\xfd" + uleb(_SIMD[word])
    if word in _SIMD_MEMORY:
        opcode, align = _SIMD_MEMORY[word]
        return b"\xfd" + uleb(opcode) + uleb(align) + uleb(int(next(rest)))
    raise ValueError(f"unknown instruction {word}")
