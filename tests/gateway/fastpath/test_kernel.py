"""The loader against the kernel: maps, programs and trial runs, and nothing left open behind a failure."""

from __future__ import annotations

import errno
import gc
import os
import struct
from pathlib import Path

import pytest

from gateway.fastpath import kernel
from gateway.fastpath.elf import MapDefinition, ObjectFile, ProgramCode, ProgramKind, read_object
from gateway.fastpath.kernel import BpfRefused, Map
from tests.gateway.fastpath.objects import EXIT

pytestmark = pytest.mark.usefixtures("require_bpf")

SMALL = read_object(Path(__file__).with_name("small.bpf.o").read_bytes())
ACCEPTED = ("count", "redirect", "grow", "calculate")
ARRAY, HASH, PER_CPU_ARRAY = 2, 1, 6
FRAME = bytes(range(60))
PASS, DROP, REDIRECT, TRANSMIT = 2, 1, 4, 3


def keys(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def values(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}Q", *numbers)


def descriptors() -> set[str]:
    gc.collect()
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def test_value_is_written_read_and_deleted() -> None:
    with Map.create(MapDefinition(HASH, 4, 8, 2), "two") as made:
        assert made.lookup(keys(1)) is None
        made.update(keys(1), values(10))
        made.update(keys(2), values(20))
        assert made.lookup(keys(1)) == values(10)
        with pytest.raises(BpfRefused) as refused:
            made.update(keys(3), values(30))
        assert refused.value.errno == errno.E2BIG
        assert made.delete(keys(1))
        assert not made.delete(keys(1))


def test_values_per_cpu_lie_one_behind_the_other() -> None:
    with Map.create(MapDefinition(PER_CPU_ARRAY, 4, 4, 2)) as made:
        cpus = kernel.possible_cpus()
        made.update(keys(1), values(*range(cpus)))
        assert made.lookup(keys(1)) == values(*range(cpus))


def test_memory_of_a_map_is_the_kernels_own_and_outlives_the_descriptor() -> None:
    made = Map.create(MapDefinition(ARRAY, 4, 12, 3, kernel.MMAPABLE))
    memory = made.memory()
    assert (memory.format, len(memory)) == ("B", 3 * 16)
    memory.cast("Q")[2] = 77
    assert made.lookup(keys(1)) == values(77) + bytes(4)
    made.update(keys(2), bytes(range(12)))
    made.close()
    assert bytes(memory[32:44]) == bytes(range(12))


def test_memory_of_a_map_that_has_none_is_refused() -> None:
    with Map.create(MapDefinition(ARRAY, 4, 8, 1)) as made, pytest.raises(BpfRefused, match="BPF_F_MMAPABLE"):
        made.memory()


def test_programs_run_with_their_maps_and_the_functions_they_call() -> None:
    with kernel.load(SMALL, programs=ACCEPTED) as loaded:
        # struct xdp_md: where the data begins and ends, where what is told about it does, the interface.
        context = struct.pack("=IIIIII", 0, len(FRAME), 0, 1, 0, 0)
        given = kernel.test_run(loaded.programs["count"], FRAME, context=context)
        assert (given.verdict, given.data) == (PASS, FRAME)
        assert bytes(loaded.maps["counts"].memory()) == values(0, 25, 0, 0)
        assert (loaded.maps["by_cpu"].lookup(keys(0)) or b"").count(1) == 1

        kernel.test_run(loaded.programs["count"], FRAME, repeat=99)
        assert loaded.maps["counts"].memory().cast("Q")[1] == 2_500

        state = bytearray(values(6, 0))
        assert kernel.run(loaded.programs["calculate"], state) == 7
        assert state == values(6, 37)


def test_redirection_follows_the_map_of_ports() -> None:
    with kernel.load(SMALL, programs=["redirect"]) as loaded:
        assert kernel.test_run(loaded.programs["redirect"], FRAME).verdict == TRANSMIT
        loaded.maps["ports"].update(keys(2), keys(1))
        assert kernel.test_run(loaded.programs["redirect"], FRAME).verdict == REDIRECT


def test_frame_comes_back_as_long_as_the_program_made_it() -> None:
    with kernel.load(SMALL, programs=["grow"]) as loaded:
        grown = kernel.test_run(loaded.programs["grow"], FRAME)
        assert (grown.verdict, grown.data[20:]) == (PASS, FRAME)
        assert len(grown.data) == 80


def test_frame_too_short_to_be_one_is_refused() -> None:
    with kernel.load(SMALL, programs=["grow"]) as loaded, pytest.raises(BpfRefused, match="on 10 octets"):
        kernel.test_run(loaded.programs["grow"], bytes(10))


def test_sizes_of_maps_may_be_chosen_and_maps_shared() -> None:
    with (
        kernel.load(SMALL, programs=ACCEPTED, sizes={"counts": 500}) as first,
        kernel.load(SMALL, programs=["count"], maps={"counts": first.maps["counts"]}) as second,
    ):
        assert first.maps["counts"].definition.max_entries == 500
        assert second.maps["counts"] is first.maps["counts"]
        kernel.test_run(first.programs["count"], FRAME)
        kernel.test_run(second.programs["count"], FRAME)
        second.close()
        assert first.maps["counts"].lookup(keys(1)) == values(50)


def test_shared_map_of_another_shape_is_our_own_mistake() -> None:
    with (
        Map.create(MapDefinition(ARRAY, 4, 16, 4, kernel.MMAPABLE)) as other,
        pytest.raises(ValueError, match="'counts'"),
    ):
        kernel.load(SMALL, programs=["count"], maps={"counts": other})


def test_refused_program_is_told_with_the_verifiers_words_and_nothing_stays_open() -> None:
    before = descriptors()
    with pytest.raises(BpfRefused) as refused:
        kernel.load(SMALL)
    assert refused.value.errno == errno.EACCES
    assert "loading the program 'careless': Permission denied" in str(refused.value)
    assert "invalid access to packet" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 18
    assert descriptors() == before


def test_verifier_that_was_interrupted_by_signals_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    interruptions = [errno.EAGAIN] * 4

    def call(command: int, attributes: bytearray, what: str) -> int:
        if command == kernel._PROGRAM_LOAD and interruptions:
            raise BpfRefused(interruptions.pop(), what)
        return bpf(command, attributes, what)

    bpf = kernel.call
    monkeypatch.setattr(kernel, "call", call)
    with kernel.load(SMALL, programs=["grow"]) as loaded:
        assert kernel.test_run(loaded.programs["grow"], FRAME).verdict == PASS
    assert interruptions == []


def test_closing_gives_everything_up_and_may_be_repeated() -> None:
    before = descriptors()
    loaded = kernel.load(SMALL, programs=ACCEPTED)
    assert len(descriptors()) == len(before) + 7
    loaded.close()
    loaded.close()
    assert descriptors() == before


def test_unknown_kind_of_map_is_refused_in_words() -> None:
    with pytest.raises(BpfRefused, match="making the map 'odd': Invalid argument"):
        Map.create(MapDefinition(9_999, 4, 4, 1), "odd")


def test_instructions_that_are_none_are_refused() -> None:
    nonsense = ObjectFile({"bad": ProgramCode(ProgramKind.XDP, b"\xff" * 8 + EXIT, ())}, {}, "GPL")
    with pytest.raises(BpfRefused, match="loading the program 'bad'"):
        kernel.load(nonsense)


def test_every_possible_cpu_is_counted() -> None:
    assert kernel.possible_cpus() >= (os.cpu_count() or 1)
