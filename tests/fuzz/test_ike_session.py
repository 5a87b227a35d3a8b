"""Live sessions and mutated messages: of strangers, of callers who have keys but no proof, and of peers.

Nothing raises, nothing that is not authentic changes anything, and whatever a peer
asks under its own key is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from policies.errors import MalformedPacket
from tests.fuzz.mutation import INPUTS, mutations
from tests.tunnels.ike import messages as m
from tests.tunnels.ike import pki
from tests.tunnels.ike.entropy import SeededEntropy
from tests.tunnels.ike.pair import UTC_NOW, Pair, pair
from tests.tunnels.ike.policies import PSK, policy
from tunnels.effects import Effect, Endpoint, Path, SendDatagram
from tunnels.ike import wire
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.credentials import Credentials, SigningKey
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.fragments import Reassembly
from tunnels.ike.life import State
from tunnels.ike.liveness import Traffic
from tunnels.ike.payloads import (
    Authentication,
    Delete,
    Header,
    Identification,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelectors,
)
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.protection import Protection
from tunnels.ike.rejected import UnsupportedCriticalPayload
from tunnels.ike.session import IkeSession

STRANGERS = INPUTS
CALLERS = INPUTS // 50
PEERS = INPUTS // 50


def sent(effects: Iterable[Effect]) -> list[bytes]:
    return [each.message for each in effects if isinstance(each, SendDatagram)]


def there_and_back(path: Path) -> Path:
    """A path as the other side sees it."""
    return Path(path.remote, path.local)


class Network:
    """Two endpoints that have come up with each other, and all that they have said."""

    def __init__(self) -> None:
        self.now = 1000.0
        policies = policy(is_left=False), policy()  # the second one calls
        self.ends = {
            each.local_addresses[0]: IkeEndpoint(SeededEntropy(seed), lambda _site: Traffic.none())
            for seed, each in enumerate(policies)
        }
        self.log: list[SendDatagram] = []
        for each, end in zip(policies, self.ends.values(), strict=True):
            self.carry(end.configure([each], self.now))

    def carry(self, effects: Iterable[Effect]) -> None:
        waiting = [each for each in effects if isinstance(each, SendDatagram)]
        while waiting:
            datagram = waiting.pop(0)
            self.log.append(datagram)
            end = self.ends[datagram.path.remote.address]
            answers = end.handle_datagram_untrusted(
                there_and_back(datagram.path), datagram.message, self.now, UTC_NOW
            )
            waiting += [each for each in answers if isinstance(each, SendDatagram)]

    @property
    def sessions(self) -> list[IkeSession]:
        return [
            session for end in self.ends.values() for peer in end.peers.values() for session in peer.sessions
        ]


def snapshot(sessions: Iterable[IkeSession]) -> list[object]:
    """What only authentic messages may change."""
    return [
        (each.own_spi, each.state, each.path, each.children and each.children.pairs, each.successor)
        for each in sessions
    ]


def fuzz_strangers(seed: int, count: int) -> None:
    network = Network()
    before = snapshot(network.sessions)
    assert [each.state for each in network.sessions] == [State.ESTABLISHED] * 2
    genuine = {each.message for each in network.log}
    places = {each.message: there_and_back(each.path) for each in network.log}
    elsewhere = Endpoint(network.log[0].path.local.address, 4500)
    corpus = sorted(genuine)
    # Less time than after which the sessions, whose own questions nobody carries, take each other for dead.
    step = min(0.001, 50.0 / count)
    taken = 0
    for number, datagram in enumerate(mutations(corpus, seed, count)):
        if datagram in genuine:
            continue
        network.now += step
        path = places[corpus[number % len(corpus)]]
        if number % 7 == 0:
            path = Path(path.local, elsewhere)
        end = network.ends[path.local.address]
        try:
            effects = end.handle_datagram_untrusted(path, datagram, network.now, UTC_NOW)
            if number % 50 == 0:
                end.handle_timeout(network.now)
        except Exception as failure:
            pytest.fail(f"{failure!r} for bytes.fromhex({datagram.hex()!r})")
        taken += bool(effects)
        assert sum(map(len, sent(effects))) <= len(datagram), "more goes out than came in"
    assert snapshot(network.sessions) == before
    assert taken > count // 1000, f"only {taken} inputs led to anything: this tests too little"


def asked(both: Pair, exchange: ExchangeType) -> tuple[Header, int, bytes]:
    """What the left side, which began the IKE SA, has sealed."""
    protection, reassembly = initiators_protection(both), Reassembly()
    for datagram in both.of(exchange, is_response=False):
        part = protection.open_untrusted(datagram.message)
        if part.fragment is None:
            return part.header, part.first_payload, part.plaintext
        header = part.header
        whole = reassembly.add(header.message_id, *part.fragment, part.first_payload, part.plaintext)
        if whole is not None:
            return header, *whole
    raise AssertionError("the left side asked nothing of this kind")


def initiators_protection(both: Pair) -> Protection:
    children = both.left.session.children
    assert children is not None
    keys = children.sa.keys
    return Protection(children.sa.suite, keys.encryption_initiator, keys.integrity_initiator)


def responders_protection(both: Pair) -> Protection:
    children = both.left.session.children
    assert children is not None
    keys = children.sa.keys
    return Protection(children.sa.suite, keys.encryption_responder, keys.integrity_responder)


class Raw:
    """Seals octets as if they were payloads."""

    def __init__(self, protection: Protection) -> None:
        self._protection = protection
        self._entropy = SeededEntropy(5)

    def seal(self, header: Header, first: int, plaintext: bytes) -> bytes:
        return self._protection._sealed(header, first, plaintext, None, self._entropy)


def mutated_chains(chains: Iterable[tuple[int, bytes]], seed: int, count: int) -> Iterator[tuple[int, bytes]]:
    """Mutate payloads together with the type of the first."""
    for octets in mutations([bytes((first,)) + body for first, body in chains], seed, count, right_lengths):
        yield (octets[0], octets[1:]) if octets else (0, b"")


def right_lengths(octets: bytearray) -> None:
    """End the chain of payloads where it breaks."""
    position = 1
    while position + 4 <= len(octets):
        length = int.from_bytes(octets[position + 2 : position + 4])
        if not 4 <= length < len(octets) - position:
            octets[position] = 0
            octets[position + 2 : position + 4] = (len(octets) - position).to_bytes(2)
            return
        position += length


def with_psk() -> tuple[PeerPolicy, PeerPolicy]:
    return policy(credentials=PSK), policy(is_left=False, credentials=PSK)


def with_certificates() -> tuple[PeerPolicy, PeerPolicy]:
    validity = (UTC_NOW - pki.DAY, UTC_NOW + pki.DAY)
    root = pki.make("CN=root", authority=True, validity=validity)
    between = pki.make("CN=between", root, authority=True, validity=validity)
    names = "left.example", "right.example"
    left, right = (
        Credentials(
            certificates=(holder.certificate, between.certificate),
            key=SigningKey(holder.key),
            authorities=(root.certificate,),
        )
        for holder in (
            pki.make(f"CN={name}", between, alternative=[name], validity=validity) for name in names
        )
    )
    return policy(credentials=left), policy(is_left=False, credentials=right)


def fuzz_callers(policies: tuple[PeerPolicy, PeerPolicy], seed: int, count: int) -> None:
    """A caller has agreed on keys with us, and its proof is mutated."""
    both = pair(*policies)
    both.connect()
    assert both.right.is_up
    (first_request,) = both.of(ExchangeType.IKE_SA_INIT, is_response=False)
    path = there_and_back(first_request.path)
    header, genuine_first, genuine = asked(both, ExchangeType.IKE_AUTH)
    proof = who(wire.decode_payloads_untrusted(genuine_first, genuine))
    raw = Raw(initiators_protection(both))
    came_up = 0
    for first, plaintext in mutated_chains([(genuine_first, genuine)], seed, count):
        session, _ = IkeSession.respond(
            both.right.policies,
            path,
            wire.decode_message_untrusted(first_request.message),
            first_request.message,
            SeededEntropy(1001),  # the right side's: it chooses the same keys again
            both.now,
        )
        assert session is not None
        try:
            effects = session.handle_datagram_untrusted(
                path, raw.seal(header, first, plaintext), both.now, UTC_NOW
            )
        except Exception as failure:
            pytest.fail(f"{failure!r} for {first}, bytes.fromhex({plaintext.hex()!r})")
        assert sent(effects), "the caller was not answered"
        if session.state is State.ESTABLISHED:
            came_up += 1
            assert who(wire.decode_payloads_untrusted(first, plaintext)) == proof
        else:
            assert session.state is State.CLOSED
    assert 0 < came_up < count // 2


def who(payloads: tuple[Payload, ...]) -> list[Payload]:
    """Who a caller says it is, and the proof."""
    return [
        each
        for each in payloads
        if isinstance(each, Authentication) or (isinstance(each, Identification) and each.of_initiator)
    ]


def chains_of_peer(both: Pair) -> list[tuple[ExchangeType, int, bytes]]:
    """What a peer may ask, with the SPIs of the SAs that there are."""
    (child,) = both.left.installed.values()
    inbound = child.inbound_spi.to_bytes(4)
    narrow = (
        TrafficSelectors(True, child.selectors.local),
        TrafficSelectors(False, child.selectors.remote),
    )
    offer = SecurityAssociation(
        (Proposal(1, Protocol.ESP, b"\xc7\1\2\3", (m.AES_GCM_256, m.WITH_ESN, m.WITHOUT_ESN)),)
    )
    create: tuple[Payload, ...] = (offer, m.REKEY_IKE[1], *narrow)
    chains: list[tuple[ExchangeType, tuple[Payload, ...]]] = [
        (ExchangeType.CREATE_CHILD_SA, create),
        (ExchangeType.CREATE_CHILD_SA, (Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, inbound), *create)),
        (ExchangeType.CREATE_CHILD_SA, m.REKEY),
        (ExchangeType.CREATE_CHILD_SA, m.REKEY_IKE),
        (ExchangeType.INFORMATIONAL, (Delete(Protocol.ESP, (inbound,)),)),
        (ExchangeType.INFORMATIONAL, (Delete(Protocol.IKE),)),
        (ExchangeType.INFORMATIONAL, (Notify(NotifyType.INITIAL_CONTACT), Notify(NotifyType.INVALID_SPI))),
        (ExchangeType.INFORMATIONAL, ()),
    ]
    return [(exchange, *wire.encode_payloads(payloads)) for exchange, payloads in chains]


def fuzz_peers(seed: int, count: int) -> None:
    """The peer has proved itself, and what it asks is mutated."""
    chance = SeededEntropy(seed)
    answered = 0
    while answered < count:
        both = pair()
        both.connect()
        session = both.right.session
        path = there_and_back(both.of(ExchangeType.IKE_AUTH)[0].path)
        raw, replies = Raw(initiators_protection(both)), responders_protection(both)
        chains = chains_of_peer(both)
        message_id = 1
        for number in range(25):
            exchange, first, body = chains[chance.octets(1)[0] % len(chains)]
            ((kind, plaintext),) = mutated_chains([(first, body)], int.from_bytes(chance.octets(4)), 1)
            malformed = is_malformed(kind, plaintext)
            if malformed and number % 8:
                continue  # it ends the IKE SA, and there is more to try
            message_id += 1
            header = Header(
                session.peer_spi,
                session.own_spi,
                exchange,
                message_id,
                is_response=False,
                from_initiator=True,
            )
            datagram = raw.seal(header, kind, plaintext)
            try:
                effects = session.handle_datagram_untrusted(path, datagram, both.now, UTC_NOW)
                both.carry_out(both.right, [each for each in effects if not isinstance(each, SendDatagram)])
            except Exception as failure:
                pytest.fail(f"{failure!r} for {exchange!r} {kind}, bytes.fromhex({plaintext.hex()!r})")
            answered += 1
            reply = replies.open_untrusted(sent(effects)[0])
            assert (reply.header.exchange, reply.header.message_id) == (exchange, message_id)
            said = wire.decode_payloads_untrusted(reply.first_payload, reply.plaintext)
            if malformed:
                assert said == (Notify(NotifyType.INVALID_SYNTAX),)
            if session.state is not State.ESTABLISHED:
                break


def is_malformed(first: int, plaintext: bytes) -> bool:
    try:
        wire.decode_payloads_untrusted(first, plaintext)
    except MalformedPacket:
        return True
    except UnsupportedCriticalPayload:
        return False
    return False


def test_strangers_change_nothing_and_get_no_more_than_they_sent() -> None:
    fuzz_strangers(seed=7296, count=STRANGERS)


@pytest.mark.parametrize("policies", [with_psk, with_certificates])
def test_callers_come_up_only_with_the_proof_of_the_peer(
    policies: Callable[[], tuple[PeerPolicy, PeerPolicy]],
) -> None:
    fuzz_callers(policies(), seed=7427, count=CALLERS)


def test_whatever_a_peer_asks_is_answered() -> None:
    fuzz_peers(seed=5996, count=PEERS)


@pytest.mark.soak
def test_strangers_in_large_numbers_change_nothing() -> None:
    fuzz_strangers(seed=4306, count=STRANGERS)


@pytest.mark.soak
def test_whatever_a_peer_asks_for_long_is_answered() -> None:
    fuzz_peers(seed=4718, count=PEERS)
