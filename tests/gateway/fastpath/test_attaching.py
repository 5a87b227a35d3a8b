"""The program on several real interfaces: all in one mode, also when one of them was away."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Concatenate, ParamSpec

import pytest

from gateway.fastpath import attaching, features, kernel, links
from gateway.fastpath.attaching import GONE, LOSES, TAKEN_OFF, Links
from gateway.fastpath.elf import read_object
from gateway.fastpath.features import Features
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.links import Mode
from gateway.fastpath.returning import come_back
from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.namespaces import Namespace
from policies.model import FastPathMode, FastPathSettings

P = ParamSpec("P")

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

SMALL = read_object(Path(__file__).with_name("small.bpf.o").read_bytes())
EAST, WEST = "east", "west"
NATIVE, GENERIC = FastPathMode.NATIVE, FastPathMode.GENERIC
MTU = 1500


class Machine:
    """Two veths whose far ends take what is redirected, and a program on both."""

    def __init__(self, namespace: Namespace, stack: ExitStack) -> None:
        self.namespace = namespace
        self._stack = stack
        self._far_ends: dict[str, ExitStack] = {}
        for name in (EAST, WEST):
            self.make(name)
        loaded = stack.enter_context(kernel.load(SMALL, programs=["count", "redirect", "grow"]))
        self.program, self.others_program = loaded.programs["count"], loaded.programs["redirect"]

    def make(self, name: str, *, takes_redirected: bool = True) -> None:
        self.namespace.ip(
            f"link add {name} type veth peer name {name}-far",
            f"link set {name} up",
            f"link set {name}-far up",
        )
        if takes_redirected:
            self._far_ends[name] = self._stack.enter_context(ExitStack())
            self._far_ends[name].enter_context(takes_redirected_frames(f"{name}-far"))

    def take_no_redirected_frames(self, name: str) -> None:
        """Have the far end be as that of a container which has started again."""
        self._far_ends[name].close()

    def delete(self, name: str) -> None:
        self.namespace.ip(f"link delete {name}")

    def attach(self, mode: FastPathMode = FastPathMode.AUTO) -> Links:
        found = Features((), features.look_at_interfaces([EAST, WEST]), features.Feature("pins", ""))
        made = attaching.attach(self.program, "attaching", found, FastPathSettings(mode=mode))
        self._stack.callback(made.close)
        return made

    def come_back(self, attached: Links, name: str) -> bool:
        index = socket.if_nametoindex(name)
        return come_back(attached, self.program, name, index, MTU) is not None


def on_a_machine(test: Callable[Concatenate[Machine, P], None]) -> Callable[P, None]:
    @functools.wraps(test)
    def inside(*args: P.args, **kwargs: P.kwargs) -> None:
        namespace = Namespace("attaching")

        def run() -> None:
            with ExitStack() as stack:
                test(Machine(namespace, stack), *args, **kwargs)

        try:
            namespace.call(run)
        finally:
            namespace.close()

    # What pytest takes for a fixture, it would look for.
    del inside.__wrapped__
    return inside


def modes(attached: Links) -> dict[str, FastPathMode | str]:
    """How each interface is, or why it is not."""
    return {each.interface: each.mode if each.is_there else each.why for each in attached.attached}


def look(attached: Links) -> dict[str, FastPathMode | str]:
    attached.look(attached.present())
    return modes(attached)


def programs() -> dict[str, dict[Mode, int]]:
    """What the kernel says is attached, by interface and mode."""
    found = {name: links.interface(socket.if_nametoindex(name)) for name in (EAST, WEST)}
    return {name: dict(each.programs) for name, each in found.items() if each is not None}


def in_mode(mode: Mode) -> dict[str, list[Mode]]:
    return {EAST: [mode], WEST: [mode]}


def attached_modes() -> dict[str, list[Mode]]:
    return {name: list(each) for name, each in programs().items()}


@on_a_machine
def test_interface_that_is_made_anew_has_the_program_again(machine: Machine) -> None:
    attached = machine.attach()
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}
    east = attached.indices[0]

    machine.delete(WEST)
    assert look(attached) == {EAST: NATIVE, WEST: GONE}
    assert attached.indices == [east]
    machine.make(WEST)
    assert look(attached) == {EAST: NATIVE, WEST: GONE}

    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}
    assert attached.indices == [east, socket.if_nametoindex(WEST)]
    assert attached_modes() == in_mode(Mode.NATIVE)


@on_a_machine
def test_all_change_over_to_the_mode_that_the_one_which_comes_back_can_have(machine: Machine) -> None:
    attached = machine.attach()
    machine.delete(WEST)
    look(attached)
    machine.make(WEST, takes_redirected=False)

    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: GENERIC, WEST: GENERIC}
    assert attached_modes() == in_mode(Mode.GENERIC)
    assert {each.why.split()[0] for each in attached.attached} == {WEST}

    machine.delete(WEST)
    look(attached)
    machine.make(WEST)
    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}
    assert attached_modes() == in_mode(Mode.NATIVE)
    assert {each.why for each in attached.attached} == {""}


@on_a_machine
def test_all_change_over_once_what_is_redirected_to_one_of_them_would_be_lost(machine: Machine) -> None:
    attached = machine.attach()
    machine.take_no_redirected_frames(WEST)

    assert look(attached) == {EAST: NATIVE, WEST: LOSES}
    assert attached_modes() == {EAST: [Mode.NATIVE], WEST: []}
    # Another program may be put in place now, as where the tables grow.
    attached.replace(machine.others_program, machine.program)

    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: GENERIC, WEST: GENERIC}
    assert attached_modes() == in_mode(Mode.GENERIC)
    assert {each.why.split()[0] for each in attached.attached} == {WEST}


@on_a_machine
def test_interface_that_loses_what_is_redirected_is_left_to_python_where_native_is_insisted_on(
    machine: Machine,
) -> None:
    attached = machine.attach(NATIVE)
    machine.take_no_redirected_frames(WEST)

    assert look(attached) == {EAST: NATIVE, WEST: LOSES}
    with pytest.raises(BpfRefused, match="west is a veth whose far end has neither GRO nor a program"):
        machine.come_back(attached, WEST)
    assert look(attached)[EAST] == NATIVE
    assert attached_modes() == {EAST: [Mode.NATIVE], WEST: []}

    machine._stack.enter_context(takes_redirected_frames(f"{WEST}-far"))
    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}


@on_a_machine
def test_generic_program_is_left_where_it_is_whatever_the_far_end_takes(machine: Machine) -> None:
    attached = machine.attach(GENERIC)
    machine.take_no_redirected_frames(WEST)

    assert look(attached) == {EAST: GENERIC, WEST: GENERIC}


@on_a_machine
def test_nothing_changes_over_where_native_is_insisted_on(machine: Machine) -> None:
    attached = machine.attach(NATIVE)
    machine.delete(WEST)
    look(attached)
    machine.make(WEST, takes_redirected=False)

    with pytest.raises(BpfRefused, match="west is a veth whose far end has neither GRO nor a program"):
        machine.come_back(attached, WEST)
    assert look(attached)[EAST] == NATIVE
    assert attached_modes() == {EAST: [Mode.NATIVE], WEST: []}


@on_a_machine
def test_others_program_is_left_alone_until_it_is_gone(machine: Machine) -> None:
    attached = machine.attach()
    machine.delete(WEST)
    look(attached)
    machine.make(WEST)
    with links.attach(machine.others_program, socket.if_nametoindex(WEST), Mode.NATIVE) as other:
        before = programs()
        with pytest.raises(BpfRefused, match="is attached there already"):
            machine.come_back(attached, WEST)
        assert programs() == before
        assert other.is_attached()
        assert look(attached)[EAST] == NATIVE
    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}


@on_a_machine
def test_program_that_somebody_has_detached_is_attached_again(machine: Machine) -> None:
    attached = machine.attach(GENERIC)
    west = attached._places[1].link
    assert west is not None
    west.detach()
    assert look(attached) == {EAST: GENERIC, WEST: TAKEN_OFF}

    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: GENERIC, WEST: GENERIC}


@on_a_machine
def test_interface_that_carries_less_than_the_underlay_does_is_left_to_python(machine: Machine) -> None:
    attached = machine.attach()
    machine.delete(WEST)
    look(attached)
    machine.make(WEST)
    machine.namespace.ip(f"link set {WEST} mtu {MTU - 1}")

    with pytest.raises(BpfRefused, match="its MTU is 1499"):
        machine.come_back(attached, WEST)
    assert attached_modes() == {EAST: [Mode.NATIVE], WEST: []}


@on_a_machine
def test_interface_without_a_carrier_is_not_ready(machine: Machine) -> None:
    attached = machine.attach()
    machine.delete(WEST)
    look(attached)
    machine.make(WEST)
    machine.namespace.ip(f"link set {WEST}-far down")

    assert not machine.come_back(attached, WEST)
    assert attached_modes() == {EAST: [Mode.NATIVE], WEST: []}


@on_a_machine
def test_interface_that_is_renamed_stays_what_it_is_until_another_one_has_its_name(machine: Machine) -> None:
    attached = machine.attach()
    machine.namespace.ip(f"link set {WEST} down", f"link set {WEST} name old", "link set old up")
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}
    old = attached.indices[1]

    machine.namespace.ip(f"link set {WEST}-far name old-far")
    machine.make(WEST)
    assert look(attached) == {EAST: NATIVE, WEST: GONE}
    assert machine.come_back(attached, WEST)
    assert look(attached) == {EAST: NATIVE, WEST: NATIVE}
    assert attached_modes() == in_mode(Mode.NATIVE)
    assert links.attached(old) is None


@on_a_machine
def test_program_takes_the_others_place_also_where_it_is_detached_from_one_in_the_midst_of_that(
    machine: Machine,
) -> None:
    attached = machine.attach()
    before, west = programs(), attached._places[1]
    assert west.link is not None
    west.link.detach()
    west.is_attached = lambda: True  # type: ignore[method-assign]  # as when that was looked at

    attached.replace(machine.others_program, machine.program)
    after = programs()
    assert after[WEST] == {}
    assert after[EAST][Mode.NATIVE] != before[EAST][Mode.NATIVE]
