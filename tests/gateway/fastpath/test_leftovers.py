"""What others have pinned on our interfaces: told from what is ours, and from what is in use."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.fastpath import attaching, features, kernel, leftovers, links
from gateway.fastpath.attaching import Links
from gateway.fastpath.elf import read_object
from gateway.fastpath.features import Features
from gateway.lab.namespaces import Namespace
from policies.model import FastPathMode, FastPathSettings

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

SMALL = read_object(Path(__file__).with_name("small.bpf.o").read_bytes())
PINNED = FastPathSettings(mode=FastPathMode.GENERIC, pinned=True)
EAST, WEST = "east", "west"
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """Two interfaces, and a BPF file system of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._program = stack.enter_context(kernel.load(SMALL, programs=["count"])).programs["count"]

    def pin(self, name: str, *interfaces: str) -> Links:
        """Have an appliance of this name run, with its program pinned on interfaces."""
        found = Features((), features.look_at_interfaces(interfaces), features.Feature("pins", ""))
        made = attaching.attach(self._program, name, found, PINNED)
        self._stack.callback(made.close)
        return made


def on_a_machine(test: Callable[[Machine], None]) -> Callable[[], None]:
    @functools.wraps(test)
    def inside() -> None:
        namespace = Namespace("leftovers")

        def run() -> None:
            assert _libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
            assert _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
            assert _libc.mount(b"bpf", b"/sys/fs/bpf", b"bpf", 0, None) == 0
            with ExitStack() as stack:
                test(Machine(stack))

        try:
            namespace.ip(f"link add {EAST} type veth peer name {WEST}")
            namespace.call(run)
        finally:
            namespace.close()

    # What pytest takes for a fixture, it would look for.
    del inside.__wrapped__
    return inside


def program_on(name: str) -> int | None:
    return links.attached(socket.if_nametoindex(name))


@on_a_machine
def test_what_is_pinned_is_found_by_others_alone_and_on_their_interfaces(machine: Machine) -> None:
    machine.pin("edge.1", EAST)
    pin = attaching.pins_of("edge.1") / EAST

    (found,) = leftovers.of_others("edge-9", [WEST, EAST, "gone"])
    assert (found.owner, found.interface, found.pin) == ("edge.1", EAST, pin)
    assert found.program == program_on(EAST)
    assert leftovers.of_others("edge.1", [EAST]) == ()
    assert leftovers.of_others("edge-9", [WEST]) == ()


@on_a_machine
def test_whoever_has_pinned_it_is_seen_to_run_for_as_long_as_it_does(machine: Machine) -> None:
    attached = machine.pin("edge-1", EAST)
    assert [each.is_served for each in leftovers.of_others("edge-9", [EAST])] == [True]
    # Looking leaves nothing behind.
    assert [each.is_served for each in leftovers.of_others("edge-9", [EAST])] == [True]

    attached.close()
    assert [each.is_served for each in leftovers.of_others("edge-9", [EAST])] == [False]
    assert program_on(EAST) is not None

    machine.pin("edge-1", EAST)
    assert [each.is_served for each in leftovers.of_others("edge-9", [EAST])] == [True]


@on_a_machine
def test_what_is_removed_is_off_the_interface_and_leaves_the_rest(machine: Machine) -> None:
    machine.pin("edge-1", EAST, WEST).close()
    (found,) = leftovers.of_others("edge-9", [EAST])

    found.remove()
    assert (program_on(EAST), program_on(WEST) is None) == (None, False)
    assert leftovers.of_others("edge-9", [EAST]) == ()

    (rest,) = leftovers.of_others("edge-9", [EAST, WEST])
    rest.remove()
    assert program_on(WEST) is None
    assert not attaching.pins_of("edge-1").exists()


@on_a_machine
def test_where_nothing_can_be_pinned_nothing_is_found(machine: Machine) -> None:
    assert leftovers.of_others("edge-9", [EAST]) == ()
    attaching.pins_of("edge-1").mkdir(parents=True)
    assert leftovers.of_others("edge-9", [EAST]) == ()


@on_a_machine
def test_what_is_cleaned_is_off_the_interface_even_while_somebody_has_it_open(machine: Machine) -> None:
    machine.pin("edge.1", EAST)
    attaching.clean("edge.1")

    assert program_on(EAST) is None
    assert not attaching.pins_of("edge.1").exists()


@on_a_machine
def test_appliances_whose_names_differ_by_a_dot_have_pins_of_their_own(machine: Machine) -> None:
    machine.pin("edge.1", EAST).close()
    machine.pin("edge-1", WEST).close()
    attaching.clean("edge-1")

    assert program_on(EAST) is not None
    assert program_on(WEST) is None
