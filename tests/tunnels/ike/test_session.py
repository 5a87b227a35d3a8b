"""The first two exchanges: both sides come up, by every suite, or say in words why not."""

from __future__ import annotations

import msgspec
import pytest

from policies.ipsec import (
    COMPATIBLE_IKE,
    MODERN_IKE,
    Encryption,
    Group,
    IkeProposal,
    Integrity,
    Prf,
    SiteStart,
)
from policies.secret import Secret
from tests.tunnels.ike.pair import UTC_NOW, Datagram, Pair, drop, pair
from tests.tunnels.ike.policies import LEFT_6, RIGHT_6, policy, selectors
from tunnels.effects import InstallChild, SendDatagram, SiteDown, SiteTrouble, SiteUp
from tunnels.ike import wire
from tunnels.ike.constants import ExchangeType, NotifyType
from tunnels.ike.credentials import Credentials
from tunnels.ike.introduction import HALF_OPEN_FOR
from tunnels.ike.life import State
from tunnels.ike.payloads import Header, Notify
from tunnels.ike.policy import ChildPolicy
from tunnels.ike.session import IkeSession

AEAD = (Encryption.AES_128_GCM, Encryption.AES_256_GCM, Encryption.CHACHA20_POLY1305)
CBC = (Encryption.AES_128_CBC, Encryption.AES_256_CBC)
GROUPS = tuple(each for each in Group if each is not Group.NONE)
OTHER_SECRET = Credentials(psk=Secret(b"another secret"))


def of(encryption: Encryption, integrity: Integrity | None, prf: Prf, group: Group) -> tuple[IkeProposal]:
    return (IkeProposal((encryption,), (integrity,) if integrity else (), (prf,), (group,)),)


def test_two_sides_come_up_with_one_child_sa_that_fits_together() -> None:
    both = pair()
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    (ours,) = both.left.installed.values()
    (theirs,) = both.right.installed.values()
    assert (ours.outbound_spi, ours.inbound_spi) == (theirs.inbound_spi, theirs.outbound_spi)
    assert (ours.inbound, ours.outbound) == (theirs.outbound, theirs.inbound)
    assert [len(side.asked(SiteUp)) for side in (both.left, both.right)] == [1, 1]
    assert both.left.asked(InstallChild)[0].sending
    assert not ours.in_udp
    assert both.right.session.policy == both.right.policy
    assert both.left.session.suite == both.right.session.suite
    assert len(both.log) == 4


@pytest.mark.parametrize("prf", Prf)
@pytest.mark.parametrize(
    ("encryption", "integrity"),
    [(each, None) for each in AEAD] + [(each, integrity) for each in CBC for integrity in Integrity],
)
def test_two_sides_come_up_by_every_suite(
    encryption: Encryption, integrity: Integrity | None, prf: Prf
) -> None:
    ike = of(encryption, integrity, prf, Group.X25519)
    both = pair(policy(ike=ike), policy(is_left=False, ike=ike))
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    assert both.left.session.suite is not None
    assert both.left.session.suite.encryption is encryption
    both.right.session.close(both.now)


@pytest.mark.parametrize("group", GROUPS)
def test_two_sides_come_up_by_every_group(group: Group) -> None:
    ike = of(Encryption.AES_256_GCM, None, Prf.SHA2_256, group)
    both = pair(policy(ike=ike), policy(is_left=False, ike=ike))
    both.connect()
    assert both.left.is_up
    assert both.right.is_up


def test_two_sides_come_up_over_ipv6() -> None:
    both = pair(addresses=(LEFT_6, RIGHT_6))
    both.connect()
    assert both.left.is_up
    assert both.right.is_up


def test_a_wrong_secret_is_told_as_a_bare_failure_and_in_words_only_here() -> None:
    both = pair(right=policy(is_left=False, credentials=OTHER_SECRET))
    both.connect(60)
    assert not both.left.is_up
    assert not both.right.is_up
    assert both.left.troubles == [
        "the peer says AUTHENTICATION_FAILED: it does not accept our identity left.example or our secret"
    ]
    assert both.right.troubles == ["left.example has the wrong shared secret"]
    assert {each.state for each in (*both.left.sessions, *both.right.sessions)} == {State.CLOSED}
    assert not both.left.asked(SiteDown)
    assert not both.right.installed


def test_a_failure_looks_the_same_for_an_unknown_identity_as_for_a_wrong_secret() -> None:
    wrong_secret = pair(right=policy(is_left=False, credentials=OTHER_SECRET))
    unknown = pair(policy(ids=("nobody.example", "right.example")))
    answers = []
    for both in (wrong_secret, unknown):
        both.connect(60)
        assert not both.left.is_up
        (answer,) = both.of(ExchangeType.IKE_AUTH, is_response=True)
        answers.append(len(answer.message))
    assert answers[0] == answers[1]
    assert unknown.right.troubles == [
        "the peer calls itself nobody.example and calls us right.example, we expect left.example"
    ]


def test_an_unknown_identity_with_somebody_elses_secret_is_no_way_in() -> None:
    # The decoy that an unknown identity is checked against would find this proof right.
    both = pair(policy(ids=("nobody.example", "right.example")))
    both.connect(60)
    assert not both.right.is_up
    assert not both.right.installed


def test_a_responder_with_another_identity_is_told_so_and_forgets_the_ike_sa() -> None:
    right = policy(is_left=False, ids=("left.example", "other.example"))
    both = pair(right=right)
    both.connect(60)
    assert both.left.troubles == ["the peer calls itself other.example, we expect right.example"]
    assert not both.right.is_up
    assert [each.reason for each in both.right.asked(SiteDown)] == [
        "the peer does not believe our proof of identity"
    ]
    assert not both.right.installed


def test_the_policy_is_found_by_the_identity_and_holds_no_other_site() -> None:
    rights = tuple(
        msgspec.structs.replace(
            policy(is_left=False, ids=(f"{name}.example", "right.example"), credentials=credentials),
            site=("blue", name),
            remote_address=None,
        )
        for name, credentials in (("one", OTHER_SECRET), ("left", policy().credentials))
    )
    both = pair(right=rights)
    both.connect()
    assert both.right.session.policy == rights[1]
    assert {each.site for each in both.right.installed.values()} == {("blue", "left")}


def test_one_peers_secret_does_not_open_another_peers_site() -> None:
    rights = tuple(
        msgspec.structs.replace(
            policy(is_left=False, ids=(f"{name}.example", "right.example"), credentials=credentials),
            site=("blue", name),
            remote_address=None,
        )
        for name, credentials in (("left", OTHER_SECRET), ("one", policy().credentials))
    )
    both = pair(right=rights)
    both.connect(60)
    assert not both.right.is_up
    assert [each.site for each in both.right.asked(SiteTrouble)] == [("blue", "left")]


def test_no_common_proposal_is_told_in_words_on_both_sides() -> None:
    left = of(Encryption.AES_256_GCM, None, Prf.SHA2_256, Group.X25519)
    right = of(Encryption.AES_128_CBC, Integrity.SHA2_256, Prf.SHA2_256, Group.X25519)
    both = pair(policy(ike=left), policy(is_left=False, ike=right))
    both.connect(60)
    assert both.left.troubles[0] == ("the peer accepted none of our proposals (aes256gcm16-prfsha256-x25519)")
    assert "the peer offered only aes256gcm16" in both.right.troubles[0]
    assert both.right.sessions == []


def test_an_error_in_the_clear_is_noted_and_the_request_repeated_all_the_same() -> None:
    both = pair()
    session = both.dial(both.left)
    lie = wire.encode_message(
        Header(
            session.own_spi, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_response=True, from_initiator=False
        ),
        (Notify(NotifyType.NO_PROPOSAL_CHOSEN),),
    )
    for _ in range(3):
        assert not [
            each
            for each in session.handle_datagram_untrusted(session.path, lie, both.now, UTC_NOW)
            if isinstance(each, SendDatagram)
        ]
    both.run(5)
    assert both.left.is_up


def test_selectors_that_do_not_match_leave_an_ike_sa_without_a_child() -> None:
    right = policy(is_left=False, children=(ChildPolicy("net", selectors("10.99.0.0/16", "10.1.0.0/16")),))
    both = pair(right=right)
    both.connect(2)
    assert both.left.is_up
    assert both.right.is_up
    assert not both.left.installed
    assert any("TS_UNACCEPTABLE" in each for each in both.left.troubles)
    assert any("not configured" in each for each in both.right.troubles)


def test_several_children_come_up_each_by_itself() -> None:
    def children(order: int) -> tuple[ChildPolicy, ...]:
        nets = [
            ("10.0.1.0/24", "10.20.0.0/16"),
            ("10.0.2.0/24", "10.30.0.0/16"),
            ("10.0.3.0/24", "10.40.0.0/16"),
        ]
        return tuple(
            ChildPolicy(f"net{n}", selectors(*(each if order else each[::-1]))) for n, each in enumerate(nets)
        )

    both = pair(policy(children=children(1)), policy(is_left=False, children=children(0)))
    both.connect(10)
    assert sorted(each.name for each in both.left.installed.values()) == ["net0", "net1", "net2"]
    assert len(both.right.installed) == 3


def test_a_cookie_is_shown_as_the_first_payload_and_nothing_else_changes() -> None:
    both = pair()
    both.rules.append(drop(lambda each: each.exchange == ExchangeType.IKE_SA_INIT))
    session = both.dial(both.left)
    (first,) = both.log
    both.carry_out(
        both.left,
        session.handle_datagram_untrusted(session.path, asking(first, b"x" * 64), both.now, UTC_NOW),
    )
    second = both.log[1]
    before = wire.decode_payloads_untrusted(first.header.next_payload, first.message[28:])
    after = wire.decode_payloads_untrusted(second.header.next_payload, second.message[28:])
    assert after == (Notify(NotifyType.COOKIE, b"x" * 64), *before)
    assert second.header.message_id == 0
    both.run(5)
    assert both.left.is_up


def test_cookies_are_shown_only_so_often_and_never_the_same_twice() -> None:
    both = pair()
    session = both.dial(both.left)
    (first,) = both.log
    for number in range(20):
        asked = asking(first, bytes([number + 1]))
        for _ in range(2):
            both.carry_out(
                both.left, session.handle_datagram_untrusted(session.path, asked, both.now, UTC_NOW)
            )
    assert len(both.log) == 6
    for length in (0, 65):
        asked = asking(first, b"c" * length)
        assert session.handle_datagram_untrusted(session.path, asked, both.now, UTC_NOW) == []


def asking(first: Datagram, cookie: bytes) -> bytes:
    header = first.header
    answer = Header(
        header.initiator_spi, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_response=True, from_initiator=False
    )
    return wire.encode_message(answer, (Notify(NotifyType.COOKIE, cookie),))


def test_the_group_that_the_peer_asks_for_is_taken_where_policy_has_it() -> None:
    right = tuple(msgspec.structs.replace(each, groups=(Group.ECP_256,)) for each in MODERN_IKE)
    both = pair(right=policy(is_left=False, ike=right))
    both.connect()
    assert both.left.is_up
    assert both.right.is_up
    assert both.left.session.suite is not None
    assert both.left.session.suite.group is Group.ECP_256
    assert len(both.log) == 6


def test_a_group_outside_our_policy_is_refused_in_words() -> None:
    both = pair()
    session = both.dial(both.left)
    before = len(both.log)
    ask_group(both, session, 2)
    assert len(both.log) == before
    assert both.left.troubles == [
        "the peer wants the group modp1024, we require one of x25519, ecp384, ecp256"
    ]
    both.run(5)
    assert both.left.is_up


def test_forged_wishes_for_groups_end_somewhere() -> None:
    both = pair()
    session = both.dial(both.left)
    for _ in range(20):
        for number in (19, 20, 31):
            ask_group(both, session, number)
    assert len(both.log) == 5


def ask_group(both: Pair, session: IkeSession, number: int) -> None:
    answer = Header(
        session.own_spi, bytes(8), ExchangeType.IKE_SA_INIT, 0, is_response=True, from_initiator=False
    )
    wish = wire.encode_message(answer, (Notify(NotifyType.INVALID_KE_PAYLOAD, number.to_bytes(2)),))
    both.carry_out(both.left, session.handle_datagram_untrusted(session.path, wish, both.now, UTC_NOW))


def test_initial_contact_is_said_when_asked_for_and_noticed() -> None:
    for said in (False, True):
        both = pair()
        both.connect(initial_contact=said)
        assert both.right.session.is_initial_contact is said
        assert not both.left.session.is_initial_contact


def test_a_site_that_is_closed_here_is_closed_at_the_peer() -> None:
    both = pair()
    both.connect()
    both.carry_out(both.left, both.left.session.close(both.now))
    assert not both.left.installed
    both.run(1)
    assert {each.state for each in (*both.left.sessions, *both.right.sessions)} == {State.CLOSED}
    assert not both.right.installed
    assert [each.reason for each in both.right.asked(SiteDown)] == ["the peer closed it"]
    both.run(60)
    assert both.left.sessions[0].deadline is None
    assert both.right.sessions[0].deadline is None


def test_both_may_close_at_once() -> None:
    both = pair()
    both.connect()
    for side in (both.left, both.right):
        both.carry_out(side, side.session.close(both.now))
    both.run(1)
    assert {each.state for each in (*both.left.sessions, *both.right.sessions)} == {State.CLOSED}


def test_a_peer_that_calls_and_does_not_go_on_is_forgotten() -> None:
    both = pair()
    session = both.dial(both.left)
    both.run(0.015)
    session.abandon(both.now)
    states = [both.right.session.state]
    both.run(HALF_OPEN_FOR)
    states.append(both.right.session.state)
    assert states == [State.HALF_OPEN, State.CLOSED]


def test_a_compatible_peer_with_cbc_only_meets_a_compatible_site() -> None:
    both = pair(policy(ike=COMPATIBLE_IKE), policy(is_left=False, ike=COMPATIBLE_IKE[1:]))
    both.connect()
    assert both.left.is_up
    assert both.left.session.suite is not None
    assert both.left.session.suite.encryption is Encryption.AES_256_CBC


def test_both_may_start() -> None:
    both = pair(right=policy(is_left=False, start=SiteStart.START))
    both.dial(both.left)
    both.dial(both.right)
    both.run(5)
    assert sum(each.state is State.ESTABLISHED for each in both.left.sessions) == 2
