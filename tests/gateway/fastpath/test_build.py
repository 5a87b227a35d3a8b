"""Objects in the tree are held to their source: with the compiler that built them, another one, or none."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.fastpath import build
from gateway.fastpath.build import BuildFailed

HERE = Path(__file__).parent
PROGRAM = """
#include "parts.h"
struct map_definition table SEC("maps") = {BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0};
char _license[] SEC("license") = "GPL";
SEC("xdp") int decide(struct xdp_md *context) { return VERDICT; }
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A program with a header of its own, and nothing built of it."""
    (tmp_path / "parts.h").write_text('#include "helpers.h"\n#define VERDICT XDP_PASS\n')
    path = tmp_path / "tiny.bpf.c"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def clang(require_tools: Callable[..., None]) -> int:
    require_tools("clang")
    version = build.clang_version()
    if version is None:
        pytest.skip("clang finds no <linux/bpf.h>: `make peers` installs the kernel's headers")
    return version


def built(source: Path, clang: int) -> Path:
    target = source.with_suffix(".o")
    target.write_bytes(build.compiled(source, clang))
    return target


def without_clang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "clang_version", lambda: None)


def test_objects_in_the_tree_are_of_their_sources_also_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_clang(monkeypatch)
    assert build.check([HERE / "small.bpf.c"]) == []


def test_same_source_gives_the_same_octets_wherever_it_lies(source: Path, tmp_path: Path, clang: int) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for each in ("parts.h", "tiny.bpf.c"):
        shutil.copy(tmp_path / each, elsewhere)
    octets = built(source, clang).read_bytes()
    assert build.compiled(elsewhere / "tiny.bpf.c", clang) == octets
    assert bytes(tmp_path) not in octets
    assert build.check([source]) == []


@pytest.mark.parametrize("changed", ["tiny.bpf.c", "parts.h"])
def test_source_that_was_changed_and_not_built_is_found_without_a_compiler(
    source: Path, clang: int, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(source, clang)
    without_clang(monkeypatch)
    assert build.check([source]) == []
    with (source.parent / changed).open("a") as file:
        file.write("\n")
    with pytest.raises(BuildFailed, match=r"built from another tiny\.bpf\.c or its headers: make fastpath"):
        build.check([source])


@pytest.mark.parametrize("is_there", [False, True], ids=["without clang", "with clang"])
def test_check_says_so_where_it_could_not_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["build", "--check", str(HERE / "nothing")])
    monkeypatch.setattr(build, "clang_version", lambda: 14 if is_there else None)

    build.main()

    assert ("by its digest alone" in capsys.readouterr().out) is not is_there


def test_object_that_is_missing_or_none_is_found_without_a_compiler(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_clang(monkeypatch)
    with pytest.raises(BuildFailed, match=r"tiny\.bpf\.o.*make fastpath"):
        build.check([source])
    source.with_suffix(".o").write_bytes(b"not an object")
    with pytest.raises(BuildFailed, match=r"no ELF object.*make fastpath"):
        build.check([source])


def test_object_that_was_changed_by_hand_is_found_by_building_again(source: Path, clang: int) -> None:
    target = built(source, clang)
    target.write_bytes(
        target.read_bytes().replace(b"\xb4\0\0\0\x02", b"\xb4\0\0\0\x03")
    )  # passes: sends back
    with pytest.raises(BuildFailed, match=f"is not what clang {clang} makes of tiny.bpf.c"):
        build.check([source])


def test_another_compilers_object_is_compared_as_far_as_that_makes_sense(source: Path, clang: int) -> None:
    target = built(source, clang)
    target.write_bytes(build.compiled(source, clang - 1))  # which only says that it was another
    (note,) = build.check([source])
    assert f"built by clang {clang - 1}, and {clang} is here" in note
    assert "instructions were not compared" in note

    target.write_bytes(target.read_bytes().replace(b"table", b"tabla"))
    with pytest.raises(BuildFailed, match="other programs or maps"):
        build.check([source])


def test_source_that_does_not_compile_is_told_in_the_compilers_words(source: Path, clang: int) -> None:
    source.write_text(PROGRAM.replace("VERDICT", "verdict"))
    with pytest.raises(BuildFailed, match="use of undeclared identifier 'verdict'"):
        build.compiled(source, clang)
