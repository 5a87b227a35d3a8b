"""Why an attempt failed, for counters: each attempt once, by a cause that does not depend on any words."""

from __future__ import annotations

import msgspec

from policies.ipsec import Encryption, Group, IkeProposal, Integrity, Prf
from policies.secret import Secret
from tests.tunnels.ike.pair import Pair, Side, pair
from tests.tunnels.ike.policies import policy, selectors
from tests.tunnels.ike.test_session_certificates import OTHER_ROOT, certified
from tunnels.effects import Cause, SiteTrouble
from tunnels.ike.constants import NotifyType
from tunnels.ike.credentials import Credentials
from tunnels.ike.policy import ChildPolicy
from tunnels.ike.rejected import cause_of

OTHER_SECRET = Credentials(psk=Secret(b"another one"))


def failures(side: Side) -> list[Cause]:
    """What is counted: an attempt that goes on has not failed."""
    return [each.cause for each in side.asked(SiteTrouble) if not each.goes_on]


def test_peer_that_is_silent_is_no_answer() -> None:
    both = pair()
    both.rules.append(lambda _datagram: ())
    both.connect(120)

    assert failures(both.left) == [Cause.NO_ANSWER]


def test_wrong_secret_is_a_matter_of_authentication_on_both_sides() -> None:
    both = pair(right=policy(is_left=False, credentials=OTHER_SECRET))
    both.connect(60)

    assert failures(both.left) == failures(both.right) == [Cause.AUTHENTICATION]


def test_certificate_that_is_not_to_be_trusted_is_told_apart_by_who_judges_it() -> None:
    both = certified(authority=OTHER_ROOT)
    both.connect(60)

    assert failures(both.right) == [Cause.CERTIFICATE]
    assert failures(both.left) == [Cause.AUTHENTICATION]


def proposals(encryption: Encryption, integrity: Integrity | None) -> tuple[IkeProposal, ...]:
    integrities = () if integrity is None else (integrity,)
    return (IkeProposal((encryption,), integrities, (Prf.SHA2_256,), (Group.X25519,)),)


def without_a_common_proposal() -> Pair:
    left = msgspec.structs.replace(policy(), ike_proposals=proposals(Encryption.AES_256_GCM, None))
    right = msgspec.structs.replace(
        policy(is_left=False), ike_proposals=proposals(Encryption.AES_128_CBC, Integrity.SHA2_256)
    )
    return pair(left, right)


def test_attempt_that_the_peer_refuses_in_the_clear_is_counted_once_and_when_it_is_over() -> None:
    both = without_a_common_proposal()
    both.connect(2)
    assert [each.cause for each in both.left.asked(SiteTrouble)] == [Cause.NO_PROPOSAL]
    assert failures(both.left) == []

    both.run(120)
    assert failures(both.left) == [Cause.NO_PROPOSAL]
    assert set(failures(both.right)) == {Cause.NO_PROPOSAL}


def test_networks_that_do_not_match_are_a_matter_of_selectors() -> None:
    right = policy(is_left=False, children=(ChildPolicy("net", selectors("10.99.0.0/16", "10.1.0.0/16")),))
    both = pair(right=right)
    both.connect(2)

    assert set(failures(both.left)) == set(failures(both.right)) == {Cause.SELECTORS}


def test_error_that_says_nothing_of_all_this_is_a_refusal() -> None:
    assert cause_of(NotifyType.NO_ADDITIONAL_SAS) is Cause.REFUSED
    assert cause_of(12_345) is Cause.REFUSED
