"""The binary format: numbers, sections and the assembler."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import wasm
from shared.errors import ArtifactError
from shared.wasm import Function, Section


@given(st.integers(0, 2**32 - 1))
def test_unsigned_numbers_come_back(value):
    data = wasm.uleb(value)
    assert wasm.read_uleb(b"x" + data + b"y", 1) == (value, 1 + len(data))


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (-1, "7f"), (63, "3f"), (64, "c000"), (-123456, "c0bb78")]
)
def test_signed_numbers_are_as_the_specification_shows(value, data):
    assert wasm.sleb(value) == bytes.fromhex(data)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x80\x80\x80\x80\x01"])
def test_a_number_that_does_not_end_is_refused(data):
    with pytest.raises(ArtifactError, match="cut off or malformed"):
        wasm.read_uleb(data, 0)


def test_sections_come_back():
    sections = [Section(wasm.CUSTOM, b"payload", "näme"), Section(wasm.TYPE, b"\0")]
    assert wasm.decode(wasm.encode(sections), 5) == sections


def test_a_component_is_refused():
    with pytest.raises(ArtifactError, match="core module"):
        wasm.decode(b"\0asm\x0d\0\1\0", 5)


def test_a_section_name_that_is_not_text_is_refused():
    with pytest.raises(ArtifactError, match="UTF-8"):
        wasm.decode(wasm.encode([]) + b"\0\2\1\xff", 5)


def test_assembled_bytes_are_those_of_the_specification():
    body = "local.get $a i32.const -1 i32.add local.tee $b if local.get 0 return end call $f"
    function = Function("f", (("a", "i32"),), ("i32",), (("b", "i32"),), body)
    expected = "01017f 2000 417f 6a 2201 0440 2000 0f 0b 1005 0b".replace(" ", "")
    code = wasm.assemble(function, {"f": 5})
    assert code == bytes([len(expected) // 2]) + bytes.fromhex(expected)


def test_an_instruction_outside_the_table_is_our_bug():
    with pytest.raises(ValueError, match=r"memory\.grow"):
        wasm.assemble(Function("f", (), (), (), "i32.const 1 memory.grow 0"), {})


def test_a_local_named_twice_is_our_bug():
    with pytest.raises(ValueError, match="twice"):
        wasm.assemble(Function("f", (("a", "i32"),), (), (("a", "f32"),), ""), {})
