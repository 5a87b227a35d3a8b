"""RFC 7296, IKEv2: child SAs and rekeying, section by section."""

from __future__ import annotations

import pytest

from policies.ipsec import Group
from policies.selectors import Selectors
from tests.tunnels.ike.duo import NONCES, Duo, Sent
from tests.tunnels.ike.policies import DMZ, NET, mirrored, policy
from tunnels.effects import SendBy, SiteTrouble
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.ike_rekey import Discard, NewIkeSa, ReplacedBy
from tunnels.ike.keys import Nonces, child_keys, rekeyed_ike_keys
from tunnels.ike.payloads import (
    Delete,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectors,
)
from tunnels.ike.transforms import group_number


def expire(duo: Duo, *names: str) -> None:
    """Have sides ask for a rekey of their child SA."""
    for name in names:
        side = duo.a if name == "a" else duo.b
        side.take(side.children.expiring(side.child().inbound_spi, duo.now))


def rekey_ike(duo: Duo, *names: str) -> None:
    for name in names:
        side = duo.a if name == "a" else duo.b
        side.take(side.children.rekey_ike(duo.now))


def delete(duo: Duo, *names: str) -> None:
    for name in names:
        side = duo.a if name == "a" else duo.b
        side.take(side.children.delete(side.child().inbound_spi, duo.now))


def kinds(message: Sent) -> list[type[Payload]]:
    return [type(each) for each in message.payloads]


def notified(message: Sent) -> list[int]:
    return [each.type for each in message.payloads if isinstance(each, Notify)]


def answers(messages: list[Sent]) -> list[list[int]]:
    return [notified(each) for each in messages if each.is_response]


def nonce_of(message: Sent) -> bytes:
    return next(each.data for each in message.payloads if isinstance(each, Nonce))


def test_section_1_3_1_a_new_child_sa_is_asked_for_with_sa_nonce_ke_and_selectors() -> None:
    duo = Duo(policy([NET, DMZ]), established=False)
    duo.authenticate()
    request = duo.deliver()
    assert request.exchange is ExchangeType.CREATE_CHILD_SA
    expected = [SecurityAssociation, Nonce, KeyExchange, TrafficSelectors, TrafficSelectors]
    assert kinds(request) == expected
    assert kinds(duo.deliver()) == expected


def test_section_1_3_1_a_failed_child_sa_does_not_tear_down_the_ike_sa() -> None:
    duo = Duo(policy([NET]), policy(mirrored([DMZ])))
    assert duo.a.is_up
    assert duo.b.is_up
    assert any(isinstance(each, SiteTrouble) for each in duo.a.effects)


def test_section_1_3_2_an_ike_sa_is_rekeyed_with_new_spis_in_its_proposals_and_no_selectors() -> None:
    duo = Duo()
    rekey_ike(duo, "a")
    request, response, *_ = duo.run()
    assert kinds(request) == kinds(response) == [SecurityAssociation, Nonce, KeyExchange]
    for message in (request, response):
        offer = message.payloads[0]
        assert isinstance(offer, SecurityAssociation)
        assert {each.protocol for each in offer.proposals} == {Protocol.IKE}
        assert {len(each.spi) for each in offer.proposals} == {8}


def test_section_1_3_2_whoever_rekeys_is_the_new_initiator_and_numbers_begin_at_zero() -> None:
    duo = Duo()
    rekey_ike(duo, "b")
    duo.run()
    assert duo.b.children.sa.is_initiator
    assert not duo.a.children.sa.is_initiator
    expire(duo, "a")
    assert duo.deliver().number == 0


def test_section_1_3_3_the_sa_that_is_rekeyed_is_named_by_the_askers_inbound_spi() -> None:
    duo = Duo()
    expire(duo, "a")
    notify = duo.wire[0].payloads[0]
    spi = duo.a.child().inbound_spi.to_bytes(4)
    assert notify == Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, spi)


def test_section_1_4_1_a_deletion_names_the_senders_inbound_spis_and_so_does_its_answer() -> None:
    duo = Duo()
    own, theirs = duo.a.child().inbound_spi, duo.b.child().inbound_spi
    delete(duo, "a")
    request, response = duo.run()
    assert request.payloads == (Delete(Protocol.ESP, (own.to_bytes(4),)),)
    assert response.payloads == (Delete(Protocol.ESP, (theirs.to_bytes(4),)),)


def test_section_1_4_1_deletions_that_cross_are_answered_without_a_deletion() -> None:
    duo = Duo()
    delete(duo, "a", "b")
    messages = duo.run()
    assert [each.payloads for each in messages if each.is_response] == [(), ()]
    assert duo.a.pairs() == duo.b.pairs() == set()


def test_section_2_8_the_responder_sends_by_the_new_sa_when_the_old_one_is_deleted() -> None:
    duo = Duo()
    expire(duo, "a")
    duo.deliver()
    new = duo.b.children.spis[-1]
    assert SendBy(new) not in duo.b.effects
    duo.deliver()
    assert SendBy(new) not in duo.b.effects
    duo.deliver()
    assert SendBy(new) in duo.b.effects


@pytest.mark.parametrize("seed", range(12))
def test_section_2_8_1_the_creator_of_the_lowest_nonce_deletes_its_own_and_the_other_the_old(
    seed: int,
) -> None:
    duo = Duo(seed=seed)
    old = {"a": duo.a.child().inbound_spi, "b": duo.b.child().inbound_spi}
    expire(duo, "a", "b")
    messages = duo.run()
    first, second, to_first, to_second = messages[0], messages[1], messages[2], messages[3]
    # `first` goes to b, so a has made it; each answer belongs to the request that came before it.
    pairs = {
        "a": Nonces(nonce_of(first), nonce_of(to_first)),
        "b": Nonces(nonce_of(second), nonce_of(to_second)),
    }
    winner = max(pairs, key=lambda name: pairs[name].lowest)
    loser = "b" if winner == "a" else "a"
    deleted = {
        "b" if each.to == "a" else "a": payload.spis
        for each in messages
        if not each.is_response
        for payload in each.payloads
        if isinstance(payload, Delete)
    }
    assert deleted[winner] == (old[winner].to_bytes(4),)
    assert deleted[loser] != (old[loser].to_bytes(4),)
    assert duo.agree()
    assert len(duo.a.pairs()) == 1
    assert nonce_is_of(duo, pairs[winner])


def nonce_is_of(duo: Duo, nonces: Nonces) -> bool:
    (child,) = duo.a.children._table
    return child.nonce == nonces.lowest


def test_section_2_8_1_a_rekey_that_comes_when_the_other_is_finished_finds_no_child_sa() -> None:
    """The second sequence of the section: the first request of a is lost, and b's rekey passes by it."""
    duo = Duo()
    expire(duo, "a")
    late = duo.wire.pop()
    expire(duo, "b")
    duo.run()
    assert duo.agree()
    duo.arrive(late)
    assert notified(duo.wire[0]) == [NotifyType.CHILD_SA_NOT_FOUND]
    notify = duo.wire[0].payloads[0]
    assert isinstance(notify, Notify)
    rekeyed = late.payloads[0]
    assert isinstance(rekeyed, Notify)
    assert notify.spi == rekeyed.spi
    duo.run()
    assert len(duo.a.pairs()) == 1
    assert duo.agree()
    assert not any(isinstance(each, SiteTrouble) for each in duo.a.effects)


@pytest.mark.parametrize("seed", range(8))
def test_section_2_8_2_the_ike_sa_with_the_lowest_nonce_goes_and_the_other_inherits_the_children(
    seed: int,
) -> None:
    duo = Duo(seed=seed)
    rekey_ike(duo, "a", "b")
    pairs = duo.a.pairs()
    first, second, to_first, to_second, *_ = duo.run()
    lowest = min(map(nonce_of, (first, second, to_first, to_second)))
    winners = [[each.sa for each in side.outcomes if isinstance(each, ReplacedBy)] for side in (duo.a, duo.b)]
    losers = [[each.sa for each in side.outcomes if isinstance(each, Discard)] for side in (duo.a, duo.b)]
    assert len(winners[0]) == len(winners[1]) == len(losers[0]) == len(losers[1]) == 1
    assert winners[0][0].own_spi == winners[1][0].peer_spi
    assert winners[0][0].is_initiator is not losers[0][0].is_initiator
    assert losers[0][0].is_initiator is (lowest in (nonce_of(first), nonce_of(to_first)))
    assert duo.a.pairs() == pairs
    expire(duo, "a")
    duo.run()
    assert duo.agree()


def test_section_2_8_2_whoever_deletes_the_old_ike_sa_has_not_noticed_the_other_rekey() -> None:
    duo = Duo()
    rekey_ike(duo, "b")
    unnoticed = duo.wire.pop()
    rekey_ike(duo, "a")
    duo.deliver()
    duo.deliver()  # a has its answer; b's own request is still under way
    duo.deliver()  # and a's deletion of the old one has arrived
    (outcome,) = (each for each in duo.b.outcomes if not isinstance(each, NewIkeSa))
    assert outcome == ReplacedBy(duo.b.children.sa)
    assert not duo.b.children.sa.is_initiator
    duo.arrive(unnoticed)
    duo.run()
    assert duo.a.children.sa.own_spi == duo.b.children.sa.peer_spi
    assert duo.agree()


def test_section_2_8_2_a_rekey_of_an_ike_sa_that_has_been_rekeyed_is_put_off() -> None:
    duo = Duo()
    rekey_ike(duo, "b")
    unnoticed = duo.wire.pop()
    rekey_ike(duo, "a")
    duo.deliver()
    duo.deliver()
    duo.wire.clear()
    duo.arrive(unnoticed)
    assert notified(duo.wire[0]) == [NotifyType.TEMPORARY_FAILURE]


def test_section_2_8_2_a_request_by_the_peers_new_ike_sa_says_that_it_is_the_one() -> None:
    duo = Duo()
    rekey_ike(duo, "b")
    duo.wire.clear()  # b's own request is lost
    rekey_ike(duo, "a")
    duo.deliver()
    duo.deliver()
    duo.wire.clear()  # and so is a's deletion of the old one
    expire(duo, "a")
    duo.deliver()
    assert duo.b.outcomes[-1] == ReplacedBy(duo.b.children.sa)
    assert not notified(duo.wire[0])
    duo.run()
    assert duo.agree()


def test_section_2_9_2_a_rekey_asks_for_the_selectors_that_are_in_use() -> None:
    wide = Selectors(NET.selectors.local + DMZ.selectors.local, NET.selectors.remote)
    duo = Duo(policy([type(NET)("net", wide)]), policy(mirrored([NET])))
    expire(duo, "a")
    sent = [each.selectors for each in duo.wire[0].payloads if isinstance(each, TrafficSelectors)]
    assert sent == [NET.selectors.local, NET.selectors.remote]
    duo.run()
    assert duo.a.child().selectors == NET.selectors


def test_section_2_17_keys_from_the_initiator_of_the_exchange_come_first() -> None:
    duo = Duo()
    (pair,) = duo.a.children.pairs
    sa = duo.a.children.sa
    forth, back = child_keys(sa.suite.prf, sa.keys.derive, pair.suite, None, NONCES)
    assert (pair.outbound, pair.inbound) == (forth, back)
    expire(duo, "b")
    duo.run()
    assert duo.agree(), "the exchange's initiator may be the IKE SA's responder"


def test_section_2_18_the_new_keys_come_from_the_old_sk_d_and_the_old_prf() -> None:
    duo = Duo()
    old = duo.a.children.sa
    rekey_ike(duo, "a")
    request = duo.wire[0]
    attempt = duo.a.children._rekey._attempt
    assert attempt is not None
    duo.deliver()
    response = duo.deliver()
    new = duo.a.children.sa
    (theirs,) = (each for each in response.payloads if isinstance(each, KeyExchange))
    assert theirs.group == group_number(Group.X25519)
    assert new.keys == rekeyed_ike_keys(
        old.suite.prf,
        old.keys.derive,
        new.suite,
        attempt.pair.shared(theirs.data),
        Nonces(nonce_of(request), nonce_of(response)),
        new.own_spi,
        new.peer_spi,
    )
    assert new.keys == duo.b.children.sa.keys


def test_section_2_25_a_temporary_failure_is_not_answered_by_trying_at_once() -> None:
    duo = Duo()
    expire(duo, "a")
    rekey_ike(duo, "b")
    messages = duo.run()
    assert answers(messages) == [[NotifyType.TEMPORARY_FAILURE], [NotifyType.TEMPORARY_FAILURE]]
    for side in (duo.a, duo.b):
        assert side.children.deadline is not None
        assert side.children.deadline >= duo.now + 1
    assert duo.a.children.deadline != duo.b.children.deadline


def test_section_2_25_1_a_rekey_of_a_child_sa_that_is_being_closed_is_put_off() -> None:
    duo = Duo()
    delete(duo, "a")
    expire(duo, "b")
    assert answers(duo.run()) == [[], [NotifyType.TEMPORARY_FAILURE]]


def test_section_2_25_1_the_deletion_of_a_child_sa_that_is_being_rekeyed_is_answered_as_usual() -> None:
    duo = Duo()
    spi = duo.b.child().inbound_spi.to_bytes(4)
    delete(duo, "a")
    expire(duo, "b")
    response = next(each for each in duo.run() if each.is_response and each.to == "a")
    assert response.payloads == (Delete(Protocol.ESP, (spi,)),)


@pytest.mark.parametrize("busy", [expire, delete])
def test_section_2_25_1_an_ike_rekey_is_put_off_while_a_child_sa_changes(busy) -> None:  # type: ignore[no-untyped-def]
    duo = Duo()
    busy(duo, "a")
    rekey_ike(duo, "b")
    request = next(each for each in duo.wire if each.to == "a")
    duo.wire.remove(request)
    duo.arrive(request)
    assert notified(duo.wire[-1]) == [NotifyType.TEMPORARY_FAILURE]


def test_section_2_25_2_a_new_child_sa_is_put_off_while_the_ike_sa_is_rekeyed() -> None:
    duo = Duo()
    rekey_ike(duo, "a")
    expire(duo, "b")
    duo.deliver(1)
    assert notified(duo.wire[-1]) == [NotifyType.TEMPORARY_FAILURE]


def test_section_2_25_2_a_deletion_while_the_ike_sa_is_rekeyed_is_answered_as_usual() -> None:
    duo = Duo()
    spi = duo.a.child().inbound_spi.to_bytes(4)
    rekey_ike(duo, "a")
    delete(duo, "b")
    duo.deliver(1)
    assert duo.wire[-1].payloads == (Delete(Protocol.ESP, (spi,)),)


def test_section_2_25_2_who_closes_an_ike_sa_that_we_rekey_closes_it() -> None:
    duo = Duo()
    rekey_ike(duo, "a")
    duo.b.delete_ike()
    duo.run()
    assert not duo.a.is_up
    assert duo.a.pairs() == duo.b.pairs() == set()
