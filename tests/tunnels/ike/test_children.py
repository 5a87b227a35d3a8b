"""All child SAs of one IKE SA: made, replaced, deleted and made again, one message at a time."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from policies.ipsec import (
    COMPATIBLE_ESP,
    MODERN_ESP,
    Encryption,
    EspProposal,
    Group,
    Integrity,
    Lifetimes,
    SiteStart,
)
from policies.selectors import Selectors, TrafficSelector
from tests.tunnels.ike.duo import NONCES, Duo, Side
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.policies import DMZ, NET, mirrored, policy, selectors
from tunnels.effects import InstallChild, RemoveChild, SendBy, SiteRekeyed, SiteTrouble
from tunnels.ike.child import REMAKE, REPLACED_FOR
from tunnels.ike.child_exchange import ChildOffer
from tunnels.ike.child_table import MOST_REGROUPINGS
from tunnels.ike.children import CREATIONS
from tunnels.ike.constants import NotifyType, Protocol
from tunnels.ike.ike_rekey import GiveUp
from tunnels.ike.payloads import (
    Delete,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    SecurityAssociation,
    TrafficSelectors,
)
from tunnels.ike.policy import ChildPolicy
from tunnels.ike.transforms import group_number

GCM = (Encryption.AES_256_GCM,)
ONLY_256 = (EspProposal(GCM, (), (Group.ECP_256,)),)
EITHER = (EspProposal(GCM, (), (Group.X25519, Group.ECP_256)),)
ANY = ChildPolicy("any", selectors("0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0"))
TWO_BY_TWO = ChildPolicy("all", selectors("10.0.1.0/24 10.0.2.0/24", "10.20.0.0/16 10.30.0.0/16"))


def rekey(duo: Duo) -> None:
    """Have `a` ask for a rekey of its child SA, and deliver nothing."""
    duo.a.take(duo.a.children.expiring(duo.a.child().inbound_spi, duo.now))


def offer(side: Side, wanted: Selectors | None = None) -> tuple[Payload, ...]:
    """Return a request for a child SA, of the side's first selectors unless others are given."""
    wanted = wanted or side.policy.children[0].selectors
    own = ChildOffer(wanted, MODERN_ESP, 0x77777777, Group.X25519, SeededEntropy(7))
    return own.payloads()


def notifies(payloads: tuple[Payload, ...]) -> list[int]:
    return [each.type for each in payloads if isinstance(each, Notify)]


def troubles(effects: list) -> list[str]:
    return [each.reason for each in effects if isinstance(each, SiteTrouble)]


def test_the_first_child_sa_is_sent_by_at_once_on_both_sides() -> None:
    duo = Duo()
    assert duo.agree()
    assert [each.sending for each in duo.a.effects + duo.b.effects if isinstance(each, InstallChild)] == [
        True,
        True,
    ]


def test_the_other_children_of_the_policy_follow_the_first() -> None:
    duo = Duo(policy([NET, DMZ]))
    assert duo.agree()
    assert {each.name for each in duo.a.children.pairs} == {"net", "dmz"}
    assert {each.name for each in duo.b.children.pairs} == {"net", "dmz"}


def test_a_responder_that_is_to_start_asks_for_what_the_initiator_left_out() -> None:
    duo = Duo(policy([NET, DMZ], start=SiteStart.RESPOND), policy(mirrored([NET, DMZ])), established=False)
    answer, effects = duo.b.children.first_request(duo.a.children.first_offer(), NONCES, 0)
    duo.b.take(effects)
    effects = duo.a.children.first_answered(answer, NONCES, 0)
    duo.a.children.take_tasks()  # an initiator that does not ask for the second
    duo.a.take(effects)
    assert len(duo.a.pairs()) == 1
    duo.at(REMAKE.first)
    duo.run()
    assert len(duo.a.pairs()) == 2
    assert duo.agree()


def test_a_rekey_sends_by_the_new_pair_before_the_old_one_goes() -> None:
    duo = Duo()
    old_a, old_b = duo.a.child(), duo.b.child()
    rekey(duo)
    duo.deliver()
    (installed,) = (each for each in duo.b.effects[1:] if isinstance(each, InstallChild))
    assert not installed.sending, "the initiator does not have it yet"
    duo.deliver()
    new = duo.a.effects[-2:]
    assert isinstance(new[0], InstallChild)
    assert new[0].sending
    assert new[1] == SiteRekeyed(old_a.site, "net")
    duo.deliver()
    assert duo.b.effects[-3:] == [
        SendBy(installed.child.inbound_spi),
        RemoveChild(old_b.inbound_spi, linger=True),
        SiteRekeyed(old_b.site, "net"),
    ]
    duo.run()
    assert duo.a.effects[-1:] == [RemoveChild(old_a.inbound_spi, linger=True)]
    assert duo.agree()


def test_a_rekey_has_a_key_exchange_of_its_own() -> None:
    duo = Duo()
    assert duo.a.child().suite.group is Group.NONE
    rekey(duo)
    duo.run()
    assert duo.a.child().suite.group is Group.X25519


def test_without_a_group_in_the_policy_there_is_no_key_exchange() -> None:
    plain = (EspProposal(GCM, ()),)
    duo = Duo(policy([NET], esp=plain), policy(mirrored([NET]), esp=plain))
    rekey(duo)
    assert not any(isinstance(each, KeyExchange) for each in duo.wire[0].payloads)
    duo.run()
    assert duo.a.child().suite.group is Group.NONE
    assert duo.agree()


def test_the_group_that_the_peer_asks_for_is_tried_at_once() -> None:
    duo = Duo(policy([NET], esp=EITHER), policy(mirrored([NET]), esp=ONLY_256))
    rekey(duo)
    answers = [notifies(each.payloads) for each in duo.run() if each.is_response]
    assert answers[0] == [NotifyType.INVALID_KE_PAYLOAD]
    assert duo.a.child().suite.group is Group.ECP_256
    assert duo.agree()
    assert troubles(duo.a.effects + duo.b.effects) == []


def test_a_peer_that_wants_another_group_each_time_is_not_asked_for_ever() -> None:
    duo = Duo(policy([NET], esp=EITHER))
    rekey(duo)
    asked = 0
    while duo.wire and asked < 100:
        request = duo.wire.pop()
        asked += 1
        (sent,) = (each for each in request.payloads if isinstance(each, KeyExchange))
        other = group_number(Group.ECP_256 if sent.group != group_number(Group.ECP_256) else Group.X25519)
        refusal = Notify(NotifyType.INVALID_KE_PAYLOAD, other.to_bytes(2))
        duo.arrive(
            msgspec.structs.replace(
                request, to="a", spi=duo.a.line.sa.own_spi, is_response=True, payloads=(refusal,)
            )
        )

    assert asked == MOST_REGROUPINGS
    assert troubles(duo.a.effects) == ["the peer refuses child SA net: INVALID_KE_PAYLOAD"]


def test_a_group_outside_the_policy_is_not_tried() -> None:
    duo = Duo(policy([NET], esp=EITHER))
    rekey(duo)
    request = duo.wire.pop()
    refusal = Notify(NotifyType.INVALID_KE_PAYLOAD, (14).to_bytes(2))
    duo.arrive(
        msgspec.structs.replace(
            request, to="a", spi=duo.a.line.sa.own_spi, is_response=True, payloads=(refusal,)
        )
    )
    assert duo.wire == []
    assert troubles(duo.a.effects) == ["the peer refuses child SA net: INVALID_KE_PAYLOAD"]


def test_cbc_with_hmac_is_agreed_on_too() -> None:
    cbc = (EspProposal((Encryption.AES_128_CBC,), (Integrity.SHA2_256,), (Group.X25519,)),)
    duo = Duo(policy([NET], esp=cbc), policy(mirrored([NET]), esp=COMPATIBLE_ESP))
    rekey(duo)
    duo.run()
    assert duo.a.child().suite.integrity is Integrity.SHA2_256
    assert len(duo.a.child().inbound.integrity) == 32
    assert duo.agree()


def test_no_common_proposal_leaves_the_ike_sa_and_is_told_on_both_sides() -> None:
    other = (EspProposal((Encryption.AES_128_GCM,), ()),)
    duo = Duo(policy([NET], esp=ONLY_256), policy(mirrored([NET]), esp=other))
    assert duo.a.pairs() == duo.b.pairs() == set()
    assert duo.a.is_up
    assert troubles(duo.a.effects) == [
        "the peer refuses child SA net: NO_PROPOSAL_CHOSEN, it takes none of our ESP proposals"
    ]
    assert "aes256gcm16" in troubles(duo.b.effects)[0]


def test_what_was_refused_is_asked_for_again_and_ever_more_rarely() -> None:
    other = ChildPolicy("net", selectors("10.99.0.0/16", "10.0.1.0/24"))
    duo = Duo(policy([NET]), policy([other], start=SiteStart.RESPOND))
    attempts = []
    for second in range(1, 300):
        duo.at(float(second))
        if duo.run():
            attempts.append(second)
    assert 4 < len(attempts) < 20
    assert attempts[-1] - attempts[-2] > 2 * (attempts[1] - attempts[0])


def test_offers_are_narrowed_to_our_policy() -> None:
    duo = Duo(policy([ANY]), policy(mirrored([NET])))
    assert duo.a.child("any").selectors == NET.selectors
    assert duo.agree()


def test_of_several_policies_the_one_that_fits_the_first_selectors_is_taken() -> None:
    packet = (TrafficSelector(bytes((10, 20, 0, 9)), bytes((10, 20, 0, 9)), 6, 40000, 40000),)
    to = (TrafficSelector(bytes((10, 0, 2, 7)), bytes((10, 0, 2, 7)), 6, 443, 443),)
    everything = TrafficSelector(bytes(4), b"\xff" * 4)
    duo = Duo(policy([NET, DMZ], start=SiteStart.RESPOND), established=False)
    request = offer(duo.b, Selectors((*packet, everything), (*to, everything)))
    answer, effects = duo.a.children.first_request(request, NONCES, 0)
    assert isinstance(effects[0], InstallChild)
    assert effects[0].child.name == "dmz"
    assert effects[0].child.selectors == DMZ.selectors, "the packet's own lie within them"
    answered = [each.selectors for each in answer if isinstance(each, TrafficSelectors)]
    assert answered == [DMZ.selectors.remote, DMZ.selectors.local]


def test_selectors_of_another_site_are_refused_by_name() -> None:
    other = ChildPolicy("net", selectors("10.99.0.0/16", "10.0.1.0/24"))
    duo = Duo(policy([NET]), policy([other]), established=False)
    assert notifies(duo.authenticate()) == [NotifyType.TS_UNACCEPTABLE]
    assert "10.20.0.0/16" in troubles(duo.b.effects)[0]


def test_a_peer_that_takes_single_pairs_only_gets_them() -> None:
    duo = Duo(policy([TWO_BY_TWO]), established=False)
    duo.a.children.first_offer()
    duo.a.take(duo.a.children.first_answered((Notify(NotifyType.SINGLE_PAIR_REQUIRED),), NONCES, 0))
    duo.run()
    assert len(duo.a.pairs()) == 4
    assert all(len(each.selectors.local) == len(each.selectors.remote) == 1 for each in duo.a.children.pairs)
    assert duo.agree()


def test_the_selectors_that_a_peer_leaves_for_other_child_sas_are_asked_for() -> None:
    duo = Duo(policy([TWO_BY_TWO]), established=False)
    request = duo.a.children.first_offer()
    narrow = selectors("10.20.0.0/16", "10.0.1.0/24")
    cut = tuple(
        TrafficSelectors(each.of_initiator, narrow.remote if each.of_initiator else narrow.local)
        if isinstance(each, TrafficSelectors)
        else each
        for each in request
    )
    answer, effects = duo.b.children.first_request(cut, NONCES, 0)
    duo.b.take(effects)
    answer = (*answer, Notify(NotifyType.ADDITIONAL_TS_POSSIBLE))
    duo.a.take(duo.a.children.first_answered(answer, NONCES, 0))
    duo.run()
    assert len(duo.a.pairs()) == 4
    assert duo.agree()


def test_an_answer_that_is_not_what_was_offered_is_deleted_at_the_peer() -> None:
    duo = Duo(policy([NET]), established=False)
    request = duo.a.children.first_offer()
    answer, _ = duo.b.children.first_request(request, NONCES, 0)
    foreign = selectors("10.77.0.0/16", "10.88.0.0/16")
    forged = tuple(
        TrafficSelectors(each.of_initiator, foreign.local) if isinstance(each, TrafficSelectors) else each
        for each in answer
    )
    duo.a.take(duo.a.children.first_answered(forged, NONCES, 0))
    assert duo.a.pairs() == set()
    (message,) = duo.wire
    own = next(each for each in request if isinstance(each, SecurityAssociation)).proposals[0].spi
    assert message.payloads == (Delete(Protocol.ESP, (own,)),)


def test_a_peer_cannot_make_child_sas_without_end() -> None:
    duo = Duo(policy([NET], start=SiteStart.RESPOND))
    answer: tuple[Payload, ...] = ()
    for _ in range(100):
        answer, effects = duo.a.children.handle_create(offer(duo.b), 0, duo.a.line.sa)
        duo.a.take(effects)
        if NotifyType.NO_ADDITIONAL_SAS in notifies(answer):
            break
    assert NotifyType.NO_ADDITIONAL_SAS in notifies(answer)
    assert len(duo.a.pairs()) == 20


def test_transport_mode_and_ipcomp_are_declined_by_silence() -> None:
    duo = Duo(policy([NET]), established=False)
    request = duo.a.children.first_offer()
    extras = (
        Notify(NotifyType.USE_TRANSPORT_MODE),
        Notify(NotifyType.IPCOMP_SUPPORTED, b"\x01\x02\x03"),
        Notify(NotifyType.NON_FIRST_FRAGMENTS_ALSO),
        Notify(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED),
    )
    answer, effects = duo.b.children.first_request((*extras, *request), NONCES, 0)
    assert notifies(answer) == []
    assert isinstance(effects[0], InstallChild)


def test_a_child_sa_that_the_peer_deletes_is_reported_and_made_again_after_a_pause() -> None:
    duo = Duo(policy([NET]), policy(mirrored([NET]), start=SiteStart.RESPOND))
    duo.b.take(duo.b.children.delete(duo.b.child().inbound_spi, duo.now))
    duo.run()
    assert duo.a.pairs() == duo.b.pairs() == set()
    assert troubles(duo.a.effects) == ["the peer has deleted child SA net"]
    assert duo.a.children.deadline is not None
    assert 1 < duo.a.children.deadline <= REMAKE.first
    duo.at(duo.a.children.deadline)
    duo.run()
    assert duo.agree()
    assert len(duo.a.pairs()) == 1


@pytest.mark.parametrize("start", [SiteStart.TRAP, SiteStart.RESPOND])
def test_a_child_sa_that_the_peer_deletes_stays_away_where_nobody_is_to_start_it(start: SiteStart) -> None:
    duo = Duo(policy([NET], start=start), policy(mirrored([NET]), start=SiteStart.RESPOND))
    duo.b.take(duo.b.children.delete(duo.b.child().inbound_spi, duo.now))
    duo.run()
    duo.at(1000.0)
    assert duo.run() == []
    duo.a.take(duo.a.children.demand(duo.now))
    duo.run()
    assert len(duo.a.pairs()) == 1, "until a packet wants to go there"


def test_both_rekey_by_time_a_little_apart_and_before_the_lifetime_ends() -> None:
    deadlines = set()
    for seed in range(20):
        duo = Duo(seed=seed)
        for side in (duo.a, duo.b):
            assert side.children.deadline is not None
            assert 0.9 * 3600 <= side.children.deadline <= 3600
            deadlines.add(side.children.deadline)
    assert len(deadlines) == 40


@pytest.mark.parametrize(("lifetime", "limit"), [(1000.0, 1100.0), (100.0, 130.0)])
def test_a_rekey_that_fails_is_tried_again_and_the_ike_sa_is_closed_at_the_hard_limit(
    lifetime: float, limit: float
) -> None:
    duo = Duo(lifetimes_policy(lifetime), policy(mirrored([NET]), esp=ONLY_256_NO_IKE_AUTH))
    requests = 0
    while duo.a.is_up and duo.now < 2 * limit:
        assert duo.a.children.deadline is not None
        duo.at(max(duo.now, duo.a.children.deadline))
        requests += sum(not each.is_response for each in duo.run())
    assert requests > 1
    assert duo.now == pytest.approx(limit)
    assert isinstance(duo.a.outcomes[-1], GiveUp)


ONLY_256_NO_IKE_AUTH = (EspProposal(GCM, (), (Group.ECP_384,)),)


def lifetimes_policy(seconds: float):  # type: ignore[no-untyped-def]
    return policy([NET], esp=ONLY_256, lifetimes=Lifetimes(child_seconds=seconds))


def test_without_esn_the_packets_end_before_the_sequence_numbers_do() -> None:
    short = (EspProposal(GCM, (), extended_sequence_numbers=(False,)),)
    limits = Lifetimes(child_packets=1 << 40)
    duo = Duo(policy([NET], esp=short, lifetimes=limits), policy(mirrored([NET]), lifetimes=limits))
    assert not duo.a.child().suite.extended_sequence_numbers
    assert duo.a.child().soft_packets < 1 << 32
    long = Duo(policy([NET], lifetimes=limits))
    assert long.a.child().soft_packets > 1 << 32


def test_a_peer_that_asks_without_end_is_put_off_before_it_costs_anything() -> None:
    duo = Duo()
    sa = duo.a.children.sa

    def ask() -> Payload:
        (answer, *_), _ = duo.a.children.handle_create((), duo.now, sa)
        return answer

    answers = Counter(map(str, (ask() for _ in range(1000))))
    assert answers == {
        str(Notify(NotifyType.INVALID_SYNTAX)): CREATIONS,
        str(Notify(NotifyType.TEMPORARY_FAILURE)): 1000 - CREATIONS,
    }
    duo.now += 1
    assert ask() == Notify(NotifyType.INVALID_SYNTAX)


def test_deletions_of_what_nobody_has_fill_no_memory() -> None:
    duo = Duo()
    rekey(duo)
    table = duo.a.children._table
    spis = tuple(number.to_bytes(4) for number in range(0x5000, 0x5400))
    said, effects = duo.a.children.handle_delete(Delete(Protocol.ESP, spis), duo.now, table.sa)

    assert (said, effects) == ((), [])
    assert 0 < len(table._deleted_early) <= table.limit
    duo.run()
    assert duo.agree()


def test_what_the_peer_replaced_and_does_not_delete_is_deleted_by_us() -> None:
    duo = Duo()
    rekey(duo)
    duo.deliver()  # b has made the new one, and a never hears of it
    duo.wire.clear()
    duo.a.line.task = duo.a.line.request = duo.a.line.repeat_at = None
    assert len(duo.b.pairs()) == 2
    duo.at(REPLACED_FOR)
    assert [each.payloads for each in duo.wire if each.to == "a"] == [
        (Delete(Protocol.ESP, (min(duo.b.pairs())[0].to_bytes(4),)),)
    ]


def test_spis_that_nobody_has_are_left_out_of_the_answer() -> None:
    duo = Duo()
    answer, effects = duo.a.children.handle_delete(
        Delete(Protocol.ESP, (b"\1\2\3\4", b"\1\2")), 0, duo.a.line.sa
    )
    assert (answer, effects) == ((), [])
    answer, effects = duo.a.children.handle_delete(Delete(Protocol.AH, (b"\1\2\3\4",)), 0, duo.a.line.sa)
    assert (answer, effects) == ((), [])


def test_several_are_deleted_by_one_request() -> None:
    duo = Duo(policy([NET, DMZ]), policy(mirrored([NET, DMZ]), start=SiteStart.RESPOND))
    for each in duo.b.children.spis:
        duo.b.children.delete(each, duo.now)
    duo.b.take([])
    request, response = duo.run()
    assert len(request.payloads) == len(response.payloads) == 1
    assert isinstance(response.payloads[0], Delete)
    assert set(response.payloads[0].spis) == {
        each.child.inbound_spi.to_bytes(4) for each in duo.a.effects if isinstance(each, InstallChild)
    }


def test_a_request_without_its_payloads_is_answered_with_invalid_syntax() -> None:
    duo = Duo()
    whole = offer(duo.a)
    for missing in (SecurityAssociation, Nonce, TrafficSelectors):
        request = tuple(each for each in whole if not isinstance(each, missing))
        answer, _ = duo.b.children.handle_create(request, 0, duo.b.line.sa)
        assert notifies(answer) == [NotifyType.INVALID_SYNTAX]


def test_closing_removes_all_and_asks_for_nothing() -> None:
    duo = Duo(policy([NET, DMZ]))
    effects = duo.a.children.close(linger=False)
    assert {type(each) for each in effects} == {RemoveChild}
    assert len(effects) == 2
    assert duo.a.children.deadline is None
    duo.at(1e6)
    assert duo.a.children.take_tasks() == []
    answer, _ = duo.a.children.handle_create(offer(duo.b), 0, duo.a.line.sa)
    assert notifies(answer) == [NotifyType.TEMPORARY_FAILURE]


def test_an_esp_limit_that_is_told_again_and_again_asks_once() -> None:
    duo = Duo()
    spi = duo.a.child().inbound_spi
    for _ in range(3):
        duo.a.take(duo.a.children.expiring(spi, duo.now))
    assert len(duo.wire) == 1
    duo.run()
    assert len(duo.a.pairs()) == 1
    assert duo.a.children.expiring(spi, duo.now) == []
    assert duo.a.children.take_tasks() == []


@pytest.mark.parametrize("seed", range(6))
def test_of_two_that_both_sides_make_at_once_one_goes_and_is_not_sent_by_first(seed: int) -> None:
    ours = policy([NET], start=SiteStart.RESPOND)
    duo = Duo(ours, policy(mirrored([NET]), start=SiteStart.RESPOND), seed=seed)
    duo.a.take(duo.a.children.delete(duo.a.child().inbound_spi, 0))
    duo.run()
    duo.a.effects.clear()
    duo.b.effects.clear()
    for side in (duo.a, duo.b):
        side.take(side.children.demand(0))
    duo.run()
    assert len(duo.a.pairs()) == 1
    assert duo.agree()
    for side in (duo.a, duo.b):
        installed = [each for each in side.effects if isinstance(each, InstallChild)]
        assert len(installed) == 2
        last = installed[-1]
        is_left = last.child.inbound_spi == side.child().inbound_spi
        assert last.sending is is_left, "our own, made last, is sent by only if it wins"
