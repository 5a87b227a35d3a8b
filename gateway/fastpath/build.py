"""Builds programs for the kernel from their C, and compares what is in the tree with what that gives.

    python -m gateway.fastpath.build [--check] FOLDER...

Every NAME.bpf.c in the folders becomes NAME.bpf.o beside it. That is in the tree, since whoever runs
Isthmus has no compiler. An object says in its section `built` which clang made it and of which source.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.fastpath.elf import MalformedObject, ObjectFile, read_object

HEADERS = Path(__file__).parent

# Without debugging information: the same source gives the same octets wherever it lies.
_OPTIONS = ("-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror", "-fno-ident")
_INCLUDED = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_BUILT = re.compile(r"clang (\d+), sha256 ([0-9a-f]{64})")


class BuildFailed(Exception):
    """A program could not be built, and what the compiler said."""


def main() -> None:
    """Build, or check; exits with 1 where that fails."""
    parser = argparse.ArgumentParser(prog="python -m gateway.fastpath.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is there, change nothing")
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    sources = sorted(each for folder in arguments.folders for each in folder.rglob("*.bpf.c"))
    try:
        if arguments.check:
            for line in check(sources):
                print(line)
            if clang_version() is None:
                print(
                    "Without clang the kernel's programs were held to their C by its digest alone: make peers"
                )
        else:
            if (clang := clang_version()) is None:
                raise BuildFailed("Building needs clang and the kernel's headers: make peers, as root")
            for source in sources:
                target = source.with_suffix(".o")
                target.write_bytes(compiled(source, clang))
                print(f"{target}: {target.stat().st_size} octets, by clang {clang}")
    except BuildFailed as failure:
        sys.exit(str(failure))


def check(sources: list[Path]) -> list[str]:
    """Return what could not be compared, and why. Raises BuildFailed where an object is not its source's.

    That each was built from its source as it is now is known by the source's digest, without a
    compiler. One of another major version gives other instructions: only programs and maps can be
    compared then.
    """
    clang = clang_version()
    notes = []
    for source in sources:
        target = source.with_suffix(".o")
        octets, there, by = _built(source)
        if clang is None:
            continue
        again = compiled(source, clang)
        if by != clang:
            if _shape(read_object(again)) != _shape(there):
                raise BuildFailed(f"{target} has other programs or maps than its source: make fastpath")
            notes.append(
                f"{target} was built by clang {by}, and {clang} is here:"
                " programs and maps are the same, instructions were not compared"
            )
        elif again != octets:
            raise BuildFailed(f"{target} is not what clang {clang} makes of {source.name}: make fastpath")
    return notes


def compiled(source: Path, clang: int) -> bytes:
    """Compile a program. Raises BuildFailed with what the compiler said."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "program.o")
        command = [
            *("clang", *_OPTIONS, *_kernel_headers(), f"-I{HEADERS}"),
            f'-DBUILT="clang {clang}, sha256 {digest(source)}"',
            *("-c", source.name, "-o", str(target)),
        ]
        done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildFailed(f"{source} does not compile:\n{done.stderr}")
        return target.read_bytes()


def digest(source: Path) -> str:
    """SHA-256 of a program's source with the headers of ours that it includes."""
    found: list[Path] = []
    waiting = [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in _INCLUDED.findall(path.read_bytes()):
            beside = (path.parent / name.decode()).resolve()
            waiting.append(beside if beside.exists() else (HEADERS / name.decode()).resolve())
    whole = hashlib.sha256()
    for path in sorted(found, key=lambda each: each.name):
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def clang_version() -> int | None:
    """The major version of this machine's clang; None if there is none that can build for the kernel."""
    if shutil.which("clang") is None:
        return None
    probe = subprocess.run(
        ["clang", *_OPTIONS, *_kernel_headers(), "-dM", "-E", "-xc", "-"],
        input="#include <linux/bpf.h>\n",
        capture_output=True,
        text=True,
        check=False,
    )
    version = re.search(r"#define __clang_major__ (\d+)", probe.stdout)
    return None if probe.returncode or version is None else int(version[1])


def _kernel_headers() -> list[str]:
    # For a foreign target clang does not look where Debian has the machine's part of them.
    folder = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    return ["-isystem", str(folder)] if folder.is_dir() else []


def _built(source: Path) -> tuple[bytes, ObjectFile, int]:
    target = source.with_suffix(".o")
    try:
        octets = target.read_bytes()
        there = read_object(octets)
    except (FileNotFoundError, MalformedObject) as error:
        raise BuildFailed(f"{target}: {error}: make fastpath") from None
    built = _BUILT.fullmatch(there.built)
    if built is None or built[2] != digest(source):
        raise BuildFailed(f"{target} was built from another {source.name} or its headers: make fastpath")
    return octets, there, int(built[1])


def _shape(program: ObjectFile) -> object:
    return program.maps, {name: code.kind for name, code in program.programs.items()}, program.license


if __name__ == "__main__":
    main()
