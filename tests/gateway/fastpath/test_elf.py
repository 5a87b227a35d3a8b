"""Object files: what clang writes is linked, and what the loader does not offer is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gateway.fastpath.elf import MalformedObject, MapDefinition, MapUse, ProgramKind, read_object
from tests.gateway.fastpath.objects import (
    EXIT,
    FUNCTION,
    LOAD_MAP,
    OBJECT,
    SECTION,
    Section,
    Symbol,
    call,
    helper,
    object_file,
)

SMALL = Path(__file__).with_name("small.bpf.o").read_bytes()
MAP = Section("maps", struct.pack("<IIIII", 2, 4, 8, 16, 1024))


def test_compiled_object_gives_its_programs_maps_licence_and_origin() -> None:
    found = read_object(SMALL)

    assert {name: program.kind for name, program in found.programs.items()} == {
        "count": ProgramKind.XDP,
        "redirect": ProgramKind.XDP,
        "grow": ProgramKind.XDP,
        "careless": ProgramKind.XDP,
        "calculate": ProgramKind.SYSCALL,
    }
    assert found.maps == {
        "counts": MapDefinition(type=2, key_size=4, value_size=8, max_entries=4, flags=1024),
        "by_cpu": MapDefinition(type=6, key_size=4, value_size=8, max_entries=2),
        "ports": MapDefinition(type=14, key_size=4, value_size=4, max_entries=4),
    }
    assert found.license == "Dual BSD/GPL"
    assert found.built.startswith("clang ")
    assert [use.map for use in found.programs["redirect"].map_uses] == ["ports"]
    assert {use.map for use in found.programs["count"].map_uses} == {"counts", "by_cpu"}
    assert found.programs["grow"].map_uses == ()


def test_functions_are_set_behind_their_caller_once_and_calls_lead_to_them() -> None:
    text = Section(".text", helper(5) + EXIT + call(-3) + call(-4) + EXIT)
    # By its section and a distance, as a static function, then by its symbol, as a global one.
    program = Section("xdp", EXIT + call(1) + call(-1) + EXIT, relocations=((8, 0), (16, 1)))
    symbols = [
        Symbol("", SECTION, 1),
        Symbol("last", FUNCTION, 1, 0, 16),
        Symbol("both", FUNCTION, 1, 16, 24),
        Symbol("unrelated", FUNCTION, 2, 0, 8),
        Symbol("main", FUNCTION, 2, 8, 24),
    ]

    linked = read_object(object_file([text, program], symbols)).programs["main"].instructions

    # main at 0 calls both at 5 and last at 3; both calls last twice.
    both = call(3 - 6) + call(3 - 7) + EXIT
    assert linked == call(5 - 1) + call(3 - 2) + EXIT + helper(5) + EXIT + both


def test_call_within_a_section_needs_no_relocation() -> None:
    program = Section("xdp", call(1) + EXIT + EXIT)
    symbols = [Symbol("main", FUNCTION, 1, 0, 16), Symbol("callee", FUNCTION, 1, 16, 8)]

    assert read_object(object_file([program], symbols)).programs["main"].instructions == call(1) + EXIT + EXIT


def test_second_half_of_a_long_instruction_is_not_taken_for_a_call() -> None:
    long = struct.pack("<BBhi", 0x18, 1, 0, 0) + call(1000)
    program = object_file([Section("xdp", long + EXIT)], [Symbol("main", FUNCTION, 1, 0, 24)])

    assert read_object(program).programs["main"].instructions == long + EXIT


def test_uses_of_a_map_in_a_called_function_are_counted_from_the_programs_start() -> None:
    text = Section(".text", EXIT + LOAD_MAP + EXIT, relocations=((8, 0),))
    program = Section("xdp", call(-1) + EXIT, relocations=((0, 1),))
    symbols = [
        Symbol("table", OBJECT, 3, 0, 20),
        Symbol("callee", FUNCTION, 1, 8, 24),
        Symbol("main", FUNCTION, 2, 0, 16),
    ]

    found = read_object(object_file([text, program, MAP], symbols))

    assert found.maps == {"table": MapDefinition(2, 4, 8, 16, 1024)}
    assert found.programs["main"].map_uses == (MapUse(2, "table"),)


@pytest.mark.parametrize("length", [0, 3, 63, 64, 200, len(SMALL) - 1])
def test_truncated_object_is_refused(length: int) -> None:
    with pytest.raises(MalformedObject):
        read_object(SMALL[:length])


@pytest.mark.parametrize(
    ("sections", "symbols", "message"),
    [
        pytest.param(
            [Section("xdp", LOAD_MAP + EXIT, relocations=((0, 0),)), Section(".rodata", bytes(8))],
            [Symbol("secret", OBJECT, 2), Symbol("main", FUNCTION, 1, 0, 24)],
            "'secret' in section '.rodata': no map",
            id="data-outside-maps",
        ),
        pytest.param(
            [Section("xdp", LOAD_MAP + EXIT, relocations=((0, 0),)), MAP],
            [
                Symbol("", SECTION, 2, 4),
                Symbol("table", OBJECT, 2, 0, 20),
                Symbol("main", FUNCTION, 1, 0, 24),
            ],
            "octet 4 of the maps, where none begins",
            id="middle-of-a-map",
        ),
        pytest.param(
            [Section("xdp", call(7) + EXIT)],
            [Symbol("main", FUNCTION, 1, 0, 16)],
            "a call leads to octet 64 of section 1: no function",
            id="call-into-nothing",
        ),
        pytest.param(
            [Section("xdp", EXIT)],
            [Symbol("main", FUNCTION, 1, 0, 16)],
            "'main' ends behind its section",
            id="function-too-long",
        ),
        pytest.param(
            [Section("xdp", EXIT + EXIT)],
            [Symbol("main", FUNCTION, 1, 4, 8)],
            "'main' is no whole number of instructions",
            id="function-between-instructions",
        ),
        pytest.param(
            [Section("xdp", EXIT + EXIT)],
            [Symbol("main", FUNCTION, 1), Symbol("main", FUNCTION, 1, 8)],
            "two programs are named 'main'",
            id="same-program-twice",
        ),
        pytest.param(
            [MAP],
            [Symbol("table", OBJECT, 1, 0, 24)],
            "'table' is not defined by 20 octets",
            id="larger-definition",
        ),
        pytest.param(
            [MAP],
            [Symbol("table", OBJECT, 1, 4, 20)],
            "'table' is not defined by 20 octets",
            id="definition-behind-the-end",
        ),
        pytest.param(
            [Section("xdp", EXIT)],
            [Symbol("main", FUNCTION, 77)],
            "in section 77, which is none",
            id="no-such-section",
        ),
        pytest.param(
            [Section("xdp", EXIT, relocations=((3, 0),))],
            [Symbol("main", FUNCTION, 1)],
            "relocates octet 3",
            id="relocation-within-an-instruction",
        ),
        pytest.param(
            [Section("xdp", EXIT * 2_001)],
            [Symbol(f"main{number}", FUNCTION, 1, 8 * number, 8_000) for number in range(1_001)],
            "more than 1000000 instructions",
            id="overlapping-functions",
        ),
    ],
)
def test_what_the_loader_does_not_offer_is_refused_by_name(
    sections: list[Section], symbols: list[Symbol], message: str
) -> None:
    with pytest.raises(MalformedObject, match=message):
        read_object(object_file(sections, symbols))


def test_object_for_another_machine_is_refused() -> None:
    with pytest.raises(MalformedObject, match="machine 62"):
        read_object(object_file([Section("xdp", EXIT)], [Symbol("main", FUNCTION, 1)], machine=62))


def test_object_in_big_endian_order_is_refused() -> None:
    with pytest.raises(MalformedObject, match="little-endian"):
        read_object(SMALL[:5] + b"\x02" + SMALL[6:])


def test_the_gateways_own_program_is_read() -> None:
    path = Path(__file__).parents[3] / "gateway/fastpath/nvgre.bpf.o"

    assert "nvgre" in read_object(path.read_bytes()).programs
