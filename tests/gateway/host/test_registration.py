"""When a host claims its VMs, and when it asks whether one is there."""

from __future__ import annotations

import math
import random

import pytest

from gateway.host.registration import Cancel, Claim, Complaint, Effect, Probe, Registrar
from gateway.lookup.claims import Mode, Reason
from policies.model import Port
from tests.gateway.host.registering import CA, CA6, HERE, HOSTS, KEY, MAC, OTHER_MAC, PORT, VSID, Host, claim


@pytest.fixture
def host() -> Host:
    return Host()


def probes(at: float) -> list[tuple[float, Effect]]:
    return [(at, Probe(KEY, CA)), (at, Probe(KEY, CA6))]


# --- a port opens


def test_a_port_that_opens_is_registered_with_all_of_its_addresses(host: Host) -> None:
    made = host.opened()

    assert (made.port, made.mode, made.addresses) == (KEY, Mode.REGISTER, (CA, CA6))
    assert host.registrar.port_opened(KEY, 0.1) == []


def test_a_port_that_opens_before_it_is_known_is_registered_once_it_is() -> None:
    registrar = Registrar("hv1", HERE, lambda _vsid, _ca: None, lambda: 0.0)

    assert registrar.port_opened(KEY, 0.0) == []
    assert claim(registrar.configure([PORT], 5.0)).mode is Mode.REGISTER


def test_what_is_registered_is_left_in_peace(host: Host) -> None:
    assert host.registrar.answered(host.opened(), 0.1) == []
    assert host.put("hv1", 0.2) == []

    assert host.registrar.deadline == math.inf


def test_what_is_recorded_here_already_is_registered_all_the_same(host: Host) -> None:
    host.put("hv1", 0.0)

    assert host.opened().mode is Mode.REGISTER


def test_a_port_that_closes_withdraws_nothing_and_drops_what_was_to_be_claimed(host: Host) -> None:
    made = host.opened()

    assert host.registrar.port_closed(KEY) == [Cancel(made.number)]
    assert host.registrar.failed(made, 0.1) == []
    assert host.registrar.answered(made, 0.1) == []
    assert host.registrar.heard(KEY, 0.2) == []
    assert host.registrar.deadline == math.inf


def test_an_answer_to_a_claim_of_the_time_before_a_port_closed_is_not_taken_for_the_present_one(
    host: Host,
) -> None:
    before = host.opened()
    host.registrar.port_closed(KEY)
    present = host.opened(0.1)

    assert host.registrar.refused(before, Reason.FROZEN, 0.2) == []
    host.registrar.failed(present, 0.3)
    assert [effect for _, effect in host.advance(1.0)] == [
        Claim(KEY, present.number + 1, Mode.REGISTER, (CA, CA6))
    ]


def test_a_port_of_another_network_is_forgotten(host: Host) -> None:
    made = host.opened()

    assert host.registrar.configure([], 1.0) == [Cancel(made.number)]
    assert host.registrar.deadline == math.inf
    assert claim(host.registrar.configure([PORT], 2.0)).mode is Mode.REGISTER


def test_a_port_with_other_addresses_is_registered_anew(host: Host) -> None:
    host.registrar.answered(host.opened(), 0.1)
    fewer = Port("vnet0", "red", VSID, MAC, (CA,))

    assert claim(host.registrar.configure([fewer], 1.0)).addresses == (CA,)
    assert host.registrar.configure([fewer], 2.0) == []


# --- a VM is heard


def test_a_vm_that_is_heard_is_claimed_at_once_and_only_once(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)

    made = claim(host.registrar.heard(KEY, 0.5))
    assert made.mode is Mode.ANNOUNCE
    assert host.registrar.heard(KEY, 0.6) == []
    assert host.registrar.heard(KEY, 0.7) == []
    assert host.registrar.answered(made, 0.8) == []
    assert host.put("hv1", 0.9) == []
    assert list(host.advance(1000.0)) == []


def test_a_vm_that_is_heard_while_it_is_being_registered_is_claimed_after_that(host: Host) -> None:
    registering = host.opened()

    assert host.registrar.heard(KEY, 0.1) == []
    assert claim(host.registrar.refused(registering, Reason.ELSEWHERE, 0.2)).mode is Mode.ANNOUNCE


def test_a_vm_that_is_heard_while_registering_is_waiting_for_the_service_does_not_wait_as_well(
    host: Host,
) -> None:
    made = host.opened()
    for _ in range(8):
        host.registrar.failed(made, host.registrar.deadline if host.registrar.deadline < math.inf else 0.0)
        (_, effect), *_ = host.advance(1000.0)
        assert isinstance(effect, Claim)
        made = effect
    host.registrar.failed(made, 100.0)

    assert claim(host.registrar.heard(KEY, 100.1)).mode is Mode.ANNOUNCE


def test_a_vm_that_is_heard_although_it_was_just_claimed_is_claimed_again_a_second_later(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    host.registrar.answered(claim(host.registrar.heard(KEY, 0.5)), 0.6)

    assert host.registrar.heard(KEY, 0.7) == []
    assert host.registrar.deadline == 1.6
    assert claim(host.registrar.handle_timeout(1.6)).mode is Mode.ANNOUNCE


def test_a_vm_that_is_heard_where_its_records_are_is_not_claimed(host: Host) -> None:
    host.put("hv1", 0.0)
    host.registrar.answered(host.opened(), 0.1)

    assert host.registrar.heard(KEY, 0.2) == []
    assert host.registrar.deadline == math.inf


def test_who_is_heard_at_a_port_that_is_not_open_is_not_claimed(host: Host) -> None:
    assert host.registrar.heard(KEY, 0.0) == []
    assert host.registrar.heard((VSID, OTHER_MAC), 0.0) == []


def test_a_vm_that_is_heard_while_its_registration_comes_to_nothing_is_claimed_without_a_pause(
    host: Host,
) -> None:
    registering = host.opened()
    host.registrar.heard(KEY, 0.1)

    assert claim(host.registrar.failed(registering, 0.2)).mode is Mode.ANNOUNCE


# --- a silent VM


def test_a_silent_vm_is_asked_for_every_address_after_1_2_4_and_at_most_60_seconds(host: Host) -> None:
    host.put("hv2", 0.0)
    assert host.registrar.port_opened(KEY, 10.0) == []

    asked = list(host.advance(200.0))
    times = [11.0, 13.0, 17.0, 25.0, 41.0, 73.0, 133.0, 193.0]
    assert asked == [probe for at in times for probe in probes(at)]


def test_a_vm_whose_registration_is_refused_because_it_is_elsewhere_is_asked(host: Host) -> None:
    assert host.registrar.refused(host.opened(), Reason.ELSEWHERE, 0.5) == []

    assert list(host.advance(2.0)) == probes(1.5)


def test_a_vm_that_has_answered_is_asked_no_more(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    assert len(list(host.advance(1.0))) == 2

    host.registrar.answered(claim(host.registrar.heard(KEY, 1.1)), 1.2)
    host.put("hv1", 1.3)
    assert list(host.advance(1000.0)) == []


def test_a_vm_whose_records_have_come_here_is_asked_no_more(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)

    host.put("hv1", 0.5)
    assert list(host.advance(1000.0)) == []


def test_a_vm_whose_records_are_gone_is_registered(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)

    made = [effect for effect in host.delete(5.0) if isinstance(effect, Claim)]
    assert [each.mode for each in made] == [Mode.REGISTER]


# --- it leaves


def test_a_vm_that_has_been_moved_elsewhere_while_it_still_runs_is_neither_asked_nor_claimed_back(
    host: Host,
) -> None:
    host.put("hv1", 0.0)
    host.registrar.answered(host.opened(), 0.1)

    assert host.put("hv2", 1.0) == []
    assert list(host.advance(1000.0)) == []
    assert host.registrar.reconnected(1001.0) == []
    assert host.delete(1002.0) == []


def test_a_vm_that_was_moved_away_before_we_saw_it_here_is_not_asked_either(host: Host) -> None:
    host.put("hv3", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    host.registrar.answered(claim(host.registrar.heard(KEY, 0.1)), 0.2)

    # Of two changes in one batch only the last is to be found.
    assert host.put("hv2", 0.3) == []
    assert list(host.advance(1000.0)) == []


def test_a_vm_that_has_left_without_our_knowing_yet_is_not_asked(host: Host) -> None:
    host.put("hv1", 0.0)

    assert host.registrar.refused(host.opened(), Reason.ELSEWHERE, 0.1) == []
    assert list(host.advance(1000.0)) == []


def test_a_vm_that_announces_itself_after_all_is_claimed_back(host: Host) -> None:
    host.put("hv1", 0.0)
    host.registrar.answered(host.opened(), 0.1)
    host.put("hv2", 1.0)

    assert claim(host.registrar.heard(KEY, 2.0)).mode is Mode.ANNOUNCE


def test_a_vm_that_comes_back_by_a_port_that_opens_anew_is_asked(host: Host) -> None:
    host.put("hv1", 0.0)
    host.registrar.answered(host.opened(), 0.1)
    host.put("hv2", 1.0)
    host.registrar.port_closed(KEY)
    host.registrar.port_opened(KEY, 5.0)

    assert list(host.advance(6.5)) == probes(6.0)


def test_what_was_heard_before_somebody_else_claimed_the_vm_is_not_claimed_any_more(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    made = claim(host.registrar.heard(KEY, 0.5))
    host.put("hv3", 0.6)

    assert host.registrar.failed(made, 0.7) == []
    assert [effect for _, effect in host.advance(1.6)] == [Probe(KEY, CA), Probe(KEY, CA6)]


# --- refusals


@pytest.mark.parametrize("reason", [Reason.FROZEN, Reason.PINNED, Reason.OTHER_MAC, "not its tenant"])
def test_a_refusal_is_told_once_and_the_claim_not_repeated_by_itself(host: Host, reason: str) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)

    made = claim(host.registrar.heard(KEY, 0.5))
    assert host.registrar.refused(made, reason, 0.6) == [Complaint(KEY, reason)]
    assert list(host.advance(1000.0)) == []


def test_a_vm_that_is_still_heard_is_claimed_every_30_seconds_without_another_word(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    host.registrar.refused(claim(host.registrar.heard(KEY, 0.5)), Reason.FROZEN, 1.0)

    for now in (2.0, 3.0, 20.0):
        assert host.registrar.heard(KEY, now) == []
    ((at, again),) = host.advance(1000.0)
    assert at == 31.0
    assert isinstance(again, Claim)
    assert host.registrar.refused(again, Reason.FROZEN, 31.5) == []


def test_a_record_that_is_unfrozen_is_claimed_at_once_by_whoever_was_heard(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    host.registrar.refused(claim(host.registrar.heard(KEY, 0.5)), Reason.FROZEN, 1.0)

    # Only its revision is another.
    assert claim(host.put("hv2", 2.0)).mode is Mode.ANNOUNCE


def test_an_address_that_another_mac_has_had_is_registered_once_it_is_free(host: Host) -> None:
    host.put("hv1", 0.0, OTHER_MAC)
    assert host.registrar.refused(host.opened(), Reason.OTHER_MAC, 0.1) == [Complaint(KEY, Reason.OTHER_MAC)]

    made = host.delete(5.0)
    assert claim(made).mode is Mode.REGISTER


def test_what_was_refused_is_tried_again_when_the_network_has_changed(host: Host) -> None:
    host.registrar.refused(host.opened(), "hv1 may not hold red", 0.1)

    assert claim(host.registrar.configure([PORT], 5.0)).mode is Mode.REGISTER


def test_a_refusal_is_told_again_after_the_vm_has_been_here(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    host.registrar.refused(claim(host.registrar.heard(KEY, 0.5)), Reason.FROZEN, 1.0)
    host.put("hv1", 2.0)
    host.put("hv2", 3.0)

    made = claim(host.registrar.heard(KEY, 4.0))
    assert host.registrar.refused(made, Reason.FROZEN, 5.0) == [Complaint(KEY, Reason.FROZEN)]


# --- the lookup service is away


def test_a_claim_that_nobody_answers_is_repeated_ever_more_rarely(host: Host) -> None:
    made = host.opened()
    times = []
    now = 0.0
    for _ in range(9):
        host.registrar.failed(made, now)
        ((now, effect),) = host.advance(1000.0)
        assert isinstance(effect, Claim)
        made = effect
        times.append(round(now, 1))

    assert times == [0.2, 0.6, 1.4, 3.0, 6.2, 12.6, 22.6, 32.6, 42.6]


def test_hosts_do_not_repeat_their_claims_all_at_once() -> None:
    host = Host(jitter=1.0)

    host.registrar.failed(host.opened(), 0.0)
    assert host.registrar.deadline == pytest.approx(0.3)


def test_an_unanswered_claim_is_not_repeated_when_the_vm_is_recorded_here(host: Host) -> None:
    made = host.opened()
    host.put("hv1", 0.1)

    assert host.registrar.failed(made, 0.2) == []
    assert host.registrar.deadline == math.inf


def test_everything_is_registered_again_after_an_outage(host: Host) -> None:
    host.put("hv1", 0.0)
    host.registrar.answered(host.opened(), 0.1)

    assert claim(host.registrar.reconnected(100.0)).mode is Mode.REGISTER


def test_hosts_do_not_come_back_all_at_once() -> None:
    host = Host(jitter=0.5)
    host.registrar.answered(host.opened(), 0.1)

    assert host.registrar.reconnected(100.0) == []
    assert host.registrar.deadline == 101.0


def test_a_claim_that_waits_for_the_service_is_made_once_it_is_back(host: Host) -> None:
    host.put("hv2", 0.0)
    host.registrar.port_opened(KEY, 0.0)
    made = claim(host.registrar.heard(KEY, 0.5))
    for _ in range(10):
        host.registrar.failed(made, 100.0)
        made = next(effect for _, effect in host.advance(1000.0) if isinstance(effect, Claim))
    host.registrar.failed(made, 200.0)

    assert claim(host.registrar.reconnected(201.0)).mode is Mode.ANNOUNCE


def test_pauses_begin_short_again_once_the_service_has_been_back(host: Host) -> None:
    made = host.opened()
    for _ in range(8):
        host.registrar.failed(made, 100.0)
        made = next(effect for _, effect in host.advance(1000.0) if isinstance(effect, Claim))
    host.registrar.failed(made, 200.0)

    host.registrar.failed(claim(host.registrar.reconnected(201.0)), 202.0)
    assert host.registrar.deadline == 202.2


# --- all of it together


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_one_claim_is_in_flight_and_in_the_end_the_vm_that_speaks_is_here(seed: int) -> None:
    rng = random.Random(seed)
    host = Host(jitter=rng.random())
    in_flight: list[Claim] = []
    is_open = False
    now = 0.0

    def take(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Claim):
                assert is_open
                assert not in_flight
                in_flight.append(effect)
            elif isinstance(effect, Cancel):
                assert in_flight.pop().number == effect.number

    def happen() -> None:
        nonlocal is_open
        match rng.randrange(9):
            case 0:
                is_open = True
                take(host.registrar.port_opened(KEY, now))
            case 1:
                take(host.registrar.port_closed(KEY))
                is_open = False
            case 2:
                take(host.put(rng.choice(list(HOSTS)), now))
            case 3 if host.records:
                take(host.delete(now))
            case 4:
                take(host.registrar.heard(KEY, now))
            case 5:
                take(host.registrar.reconnected(now))
            case 6 if in_flight:
                take(host.registrar.refused(in_flight.pop(), rng.choice(list(Reason)), now))
            case 7 if in_flight:
                take(host.registrar.failed(in_flight.pop(), now))
            case _:
                take(host.registrar.handle_timeout(now))

    for _ in range(100):
        now += rng.choice((0.0, 0.01, 1.0, 40.0))
        happen()
    is_open = True
    take(host.registrar.port_opened(KEY, now))
    for _ in range(100):
        now += 1.0
        if any(record.host != "hv1" for record in host.records.values()) or not host.records:
            take(host.registrar.heard(KEY, now))
        take(host.registrar.handle_timeout(now))
        if in_flight:
            done = in_flight.pop()
            held = any(record.host != "hv1" for record in host.records.values())
            if done.mode is Mode.REGISTER and held:
                take(host.registrar.refused(done, Reason.ELSEWHERE, now))
            else:
                take(host.registrar.answered(done, now))
                take(host.put("hv1", now))
    assert {record.host for record in host.records.values()} == {"hv1"}
    assert host.registrar.deadline == math.inf
