"""What the fast path needs is tried, and what is missing is named with what happens without it."""

from __future__ import annotations

import msgspec
import pytest

from gateway.fastpath import features, kernel
from gateway.fastpath.drivers import Driver, driver
from gateway.fastpath.features import Feature, Features, Interface
from gateway.fastpath.kernel import BpfRefused
from policies.model import FastPathMode, FastPathSettings

AUTO, NATIVE = FastPathSettings(), FastPathSettings(mode=FastPathMode.NATIVE)
CARD = Interface("eth1", 2, 1500, driver=Driver(is_native=True, sends=False))
VETH = Interface("veth1", 3, 1500, kind="veth", driver=Driver(is_native=True, sends=True))
THERE = Features(
    kernel=(Feature("links", "there is none"),),
    interfaces=(CARD, VETH),
    pinning=Feature("a BPF file system", "it ends with the process", is_needed=False),
)


def lacking(feature: str, *, is_needed: bool = True) -> Features:
    missing = Feature(feature, "there is none", "not in this kernel", is_needed)
    return msgspec.structs.replace(THERE, kernel=(*THERE.kernel, missing))


def test_machine_with_all_that_is_needed_has_no_reason_against_it() -> None:
    assert features.why_not(THERE, AUTO) is None
    assert features.why_not(THERE, NATIVE) is None
    assert features.why_not(THERE, FastPathSettings(pinned=True)) is None


def test_what_is_needed_and_missing_is_the_reason() -> None:
    assert features.why_not(lacking("atomics"), AUTO) == "needs atomics: not in this kernel"
    assert features.why_not(lacking("a compiler", is_needed=False), AUTO) is None


def test_pinning_is_needed_only_where_it_is_asked_for() -> None:
    pinning = msgspec.structs.replace(THERE.pinning, why_not="it is not mounted")
    without = msgspec.structs.replace(THERE, pinning=pinning)

    assert features.why_not(without, AUTO) is None
    assert features.why_not(without, FastPathSettings(pinned=True)) == (
        "needs a BPF file system to be pinned: it is not mounted"
    )


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        (
            msgspec.structs.replace(CARD, driver=Driver(is_native=False, sends=False)),
            "the driver of eth1 has no native XDP",
        ),
        (
            msgspec.structs.replace(VETH, driver=Driver(is_native=True, sends=False)),
            "veth1 is a veth whose far end has neither GRO nor a program",
        ),
        # Many cards send what is redirected to them only once they have a program.
        (CARD, None),
        # Kernels before Linux 6.3 do not tell.
        (msgspec.structs.replace(VETH, driver=None), None),
    ],
)
def test_native_mode_is_refused_where_the_driver_is_known_not_to_have_it(
    interface: Interface, words: str | None
) -> None:
    there = msgspec.structs.replace(THERE, interfaces=(interface,))
    reason = features.why_not(there, NATIVE)

    assert features.why_not(there, AUTO) is None
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert reason.startswith(f"cannot be native: {words}")


def test_flags_of_a_driver_are_read() -> None:
    assert driver(0b011) == Driver(is_native=True, sends=False)
    assert driver(0b100) == Driver(is_native=False, sends=True)
    assert driver(0b001) == driver(None) == Driver(is_native=False, sends=False)


def test_nothing_more_is_tried_where_no_program_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise BpfRefused(1, "loading")

    monkeypatch.setattr(kernel, "call", refuse)

    found = features.look(())

    reason = features.why_not(found, AUTO)
    assert reason is not None
    assert reason.startswith("needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: ")
    assert [each.why_not for each in found.kernel[2:]] == ["not tried"] * len(found.kernel[2:])


def test_feature_that_the_kernel_refuses_is_missing_with_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> str | None:
        raise BpfRefused(22, "making the map 'probe'")

    monkeypatch.setattr(features, "_loads_a_program", lambda: None)
    monkeypatch.setattr(features, "_has_shared_arrays", refuse)

    (found,) = [each for each in features.look(()).kernel if each.name.startswith("arrays in shared")]

    assert found.why_not == "making the map 'probe': Invalid argument"


def test_interfaces_are_looked_up_by_name_and_those_that_are_not_there_left_out() -> None:
    (found,) = features.look(("lo", "no-such-one")).interfaces

    assert found.name == "lo"
    assert found.programs == ()
