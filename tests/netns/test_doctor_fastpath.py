"""What `isthmus doctor` finds of the fast path: drivers, programs and rules that are really there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gateway.doctor.findings import Finding, Level
from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.namespaces import Namespace, connect
from tests.configurations import RED, edge_1, table

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]


class World(NamedTuple):
    gateway: Namespace
    router: Namespace
    folder: Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A gateway on a veth. Programs are loaded by root of the whole machine alone."""
    if os.geteuid() or Path("/proc/self/uid_map").read_text().split()[2] != "4294967295":
        pytest.skip("a program is loaded by root of the whole machine alone")
    gateway, router = Namespace("gateway"), Namespace("router")
    connect(gateway, "u0", router, "g0")
    gateway.ip("addr add 192.0.2.254/24 dev u0", "link set u0 up", "link set lo up")
    router.ip("link set g0 up")
    yield World(gateway, router, tmp_path)
    gateway.close()
    router.close()


def examined(world: World, engine: str = "xdp", mode: str | None = None) -> list[tuple[Level, str]]:
    file = world.folder / "appliance.toml"
    file.write_text(
        edge_1(state=world.folder / "state", engine=engine) + RED + table("[fastpath]", mode=mode)
    )
    command = (sys.executable, "-m", "gateway.cli", "doctor", str(file), "--json")
    done = subprocess.run(
        world.gateway.command(*command), capture_output=True, text=True, cwd=ROOT, timeout=20, check=False
    )
    found = msgspec.json.decode(done.stdout, type=list[Finding])
    return [(each.level, each.what) for each in found if each.area == "fast path"]


def wrong(found: list[tuple[Level, str]]) -> list[tuple[Level, str]]:
    return [(level, words) for level, words in found if level is not Level.OK]


def test_kernel_has_what_the_fast_path_needs_and_takes_its_program(world: World) -> None:
    found = examined(world, mode="generic")

    assert wrong(found) == []
    assert (
        Level.OK,
        "a verifier that takes the program: there; without it there is no fast path",
    ) in found
    assert not examined(world, engine="python")


def test_veth_is_native_only_while_its_far_end_takes_what_is_sent(world: World) -> None:
    silent = "u0 is a veth whose far end has neither GRO nor a program of XDP"

    ((level, words),) = wrong(examined(world))
    assert level is Level.WARN
    assert words.startswith(silent)
    ((level, words),) = wrong(examined(world, mode="native"))
    assert level is Level.FAIL
    with ExitStack() as stack:
        world.router.call(stack.enter_context, takes_redirected_frames("g0"))
        assert wrong(examined(world, mode="native")) == []


def test_program_of_somebody_else_is_told(world: World) -> None:
    with ExitStack() as stack:
        world.gateway.call(stack.enter_context, takes_redirected_frames("u0"))
        found = wrong(examined(world, mode="generic"))

    ((level, words),) = found
    assert level is Level.FAIL
    assert words.startswith("u0 has a program of XDP already (")


def test_rules_that_will_not_see_the_packets_are_named(
    world: World, require_tools: Callable[..., None]
) -> None:
    require_tools("nft")
    world.gateway.run("nft", "add table inet filter")
    world.gateway.run("nft", "add chain inet filter input { type filter hook input priority 0; }")

    ((level, words),) = wrong(examined(world, mode="generic"))

    assert level is Level.WARN
    assert words == "what it carries passes by the rules of inet filter input"
