"""What is remembered about a flow changes how fast its packets are decided, and nothing else."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Change, Delete, DeleteLease, Put, PutLease
from gateway.forwarding.flows import REWRITTEN, Flow, FlowCache, key_untrusted, site_key_untrusted
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import Emission, Held, OuterHeader, ToPort, ToSite, Verdict
from gateway.forwarding.ways import Plain, Tunnel
from gateway.packets import ip, nvgre
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, Vsid
from policies.facts import PacketFacts
from policies.model import Lease, LookupRecord, Translation
from tests.fuzz.mutation import INPUTS, ipv4_checksum_at, mutations
from tests.properties.frames import Sent, frame, from_provider, from_site
from tests.properties.travel import put_in
from tests.properties.worlds import World, bring_up, gateway_of, generate, moved, twin

FLOWS = 5
SITE_FLOWS = 3
PLAIN_FLOWS = 5
STEPS = 80


class Forgetful(FlowCache):
    """Remembers nothing: each packet is decided in full."""

    def remember(self, key: bytes, flow: Flow) -> None:
        pass


class Uncached(Forwarder):
    """The pipeline without what makes it fast."""

    def _forget_flows(self) -> None:
        self.flows = Forgetful()


class Pair(msgspec.Struct, frozen=True):
    """One node twice: as it is, and deciding each packet in full."""

    cached: Forwarder
    uncached: Forwarder

    def send(self, sent: Sent, now: float) -> Verdict:
        verdict = put_in(self.cached, sent, now)
        assert as_promised(verdict) == as_promised(put_in(self.uncached, sent, now))
        return verdict

    def change(self, change: Change, now: float) -> None:
        came = self.cached.apply([change], now)
        assert as_promised_each(came) == as_promised_each(self.uncached.apply([change], now))

    def refuse(self, vsid: Vsid, ca: CustomerAddress, now: float) -> None:
        told = self.cached.refuse(vsid, ca, now)
        assert as_promised_each(told) == as_promised_each(self.uncached.refuse(vsid, ca, now))

    def expire(self, now: float) -> None:
        assert self.cached.expire(now) == self.uncached.expire(now)

    def report(self, destination: bytes, mtu: int, now: float) -> None:
        vsid = min(self.cached.tables.subnets)
        believed = self.cached.path_mtu_reported(destination, vsid, mtu, now)
        assert believed is self.uncached.path_mtu_reported(destination, vsid, mtu, now)

    def compare(self) -> None:
        assert counters(self.cached) == counters(self.uncached)


def as_promised(verdict: Verdict) -> Verdict:
    """The verdict with what is promised of it: the rest may be an earlier packet's of its flow."""
    return msgspec.structs.replace(verdict, emissions=as_promised_each(verdict.emissions))


def as_promised_each(emissions: tuple[Emission, ...]) -> tuple[Emission, ...]:
    return tuple(map(_as_promised, emissions))


def _as_promised(emission: Emission) -> Emission:
    if isinstance(emission, ToSite):
        return msgspec.structs.replace(emission, facts=_for_selectors(emission.facts))
    if isinstance(emission, ToPort) and emission.outer is not None and emission.outer.plain is not None:
        # What NVGRE would have brought it in has the hop limit of any packet of its flow.
        return msgspec.structs.replace(emission, outer=msgspec.structs.replace(emission.outer, hop_limit=0))
    return emission


def _for_selectors(facts: PacketFacts) -> PacketFacts:
    return msgspec.structs.replace(
        facts,
        traffic_class=0,
        hop_limit=0,
        header_length=0,
        total_length=0,
        tcp_flags=0,
        identification=0,
        dont_fragment=False,
    )


def counters(forwarder: Forwarder) -> dict[str, object]:
    return {
        "drops": forwarder.drops.counts,
        "meters": {
            vsid: [getattr(meter, slot) for slot in meter.__slots__]
            for vsid, meter in forwarder.meters.items()
        },
        "elsewhere": forwarder.sources_elsewhere,
        "leases": forwarder.take_used_leases(),
        "waiting": len(forwarder.waiting),
        "sites": {
            site: [getattr(meter, slot) for slot in meter.__slots__]
            for site, meter in forwarder.site_meters.items()
        },
        "notices": (
            forwarder.notices.sent,
            forwarder.notices.suppressed,
            forwarder.notices.without_source,
        ),
    }


def pair(forwarder: Forwarder) -> Pair:
    return Pair(twin(forwarder), twin(forwarder, Uncached))


def flows(chance: random.Random, world: World) -> list[Sent]:
    """Packets of flows that may be remembered, each on its way into a gateway or a host."""
    found = []
    for _ in range(40 if world.vms else 0):
        vm = chance.choice(world.vms)
        gateways = [name for name, _ in world.tables.domains[vm.tenant].gateways]
        others = [name for name in sorted(world.nodes) if name != vm.host]
        node = world.nodes[chance.choice([*(gateways * 2), *others])].node
        source = chance.choice(world.nodes[vm.host].node.provider_addresses)
        destination = node.address_towards(source)
        if destination is None:
            continue
        payload = nvgre.encode(vm.vsid, chance.randrange(256)) + frame(chance, world, vm)
        outer = OuterHeader(source, destination, ecn=chance.choice((0, 0, 2, 3)))
        if key_untrusted(outer.source, payload) is not None:
            found.append(Sent(node.name, payload, outer=outer))
    from_sites = []
    for _ in range(30 if world.children else 0):
        sent = from_site(chance, world)
        if site_key_untrusted(bytes(4), sent.data) is not None:
            from_sites.append(sent)
    plain = []
    for _ in range(40 if world.holders else 0):
        sent = from_provider(chance, world)
        if site_key_untrusted(REWRITTEN, sent.data) is not None:
            plain.append(sent)
    return found[:FLOWS] + from_sites[:SITE_FLOWS] + plain[:PLAIN_FLOWS]


def varied(chance: random.Random, world: World, sent: Sent) -> Sent:
    """The same flow's next packet: as before, from elsewhere, with one field changed, or damaged."""
    fate = chance.random()
    if fate < 0.5:
        return sent
    if sent.site is not None:
        return varied_from_site(chance, world, sent, fate)
    if sent.is_plain:
        return varied_plain(chance, world, sent, fate)
    assert sent.outer is not None
    if fate < 0.6:
        elsewhere = chance.choice([pa for pa in world.at if len(pa) == len(sent.outer.source)])
        return msgspec.structs.replace(sent, outer=msgspec.structs.replace(sent.outer, source=elsewhere))
    if fate < 0.8:
        return msgspec.structs.replace(
            sent, data=next(mutations([sent.data], chance.getrandbits(32), 1, ipv4_checksum_at(22)))
        )
    if fate < 0.9:
        ecn = msgspec.structs.replace(sent.outer, ecn=chance.randrange(4))
        return msgspec.structs.replace(sent, outer=ecn)
    data = bytearray(sent.data)
    position = chance.choice(
        (7, 23, 24, 25, 26, 27, 29, 30, 34, 46, 47, 54, 55, 66, 67, 74, 75, len(data) - 1)
    )
    data[position % len(data)] = chance.choice((0, 1, 2, 0x10, 0x50, 0xF0, 0xFF))
    ipv4_checksum_at(22)(data)
    return msgspec.structs.replace(sent, data=bytes(data))


def varied_from_site(chance: random.Random, world: World, sent: Sent, fate: float) -> Sent:
    """The same for a site's packet: by another child SA, from another site, with another ECN, or damaged."""
    assert sent.site is not None
    if fate < 0.6:
        return msgspec.structs.replace(sent, child=chance.choice(world.children[sent.site]))
    if fate < 0.7:
        site = chance.choice(sorted(world.children))
        return msgspec.structs.replace(sent, site=site, child=chance.choice(world.children[site]))
    if fate < 0.8:
        return msgspec.structs.replace(sent, outer_ecn=chance.randrange(4))
    data = next(mutations([sent.data], chance.getrandbits(32), 1, ipv4_checksum_at(0)))
    return msgspec.structs.replace(sent, data=data)


def varied_plain(chance: random.Random, world: World, sent: Sent, fate: float) -> Sent:
    """The same for a rewritten packet: from or to another address, with few hops left, or damaged."""
    packet = sent.data
    facts = ip.decode_untrusted(packet)
    if fate < 0.7:
        other = chance.choice([pa for pa in sorted(world.holders) if len(pa) == len(facts.source)])
        both = chance.choice(((other, facts.destination), (facts.source, other)))
        return msgspec.structs.replace(sent, data=rewritten(packet[: facts.total_length], *both))
    if fate < 0.8:
        return msgspec.structs.replace(sent, data=ip.with_hop_limit(packet, chance.choice((0, 1, 2))))
    data = next(mutations([packet], chance.getrandbits(32), 1, ipv4_checksum_at(0)))
    return msgspec.structs.replace(sent, data=data)


def change(chance: random.Random, world: World, sent: Sent, records: list[LookupRecord]) -> Change | None:
    """A record that appears, moves, goes, comes back, changes its MAC or is carried otherwise; or a lease."""
    if chance.random() < 0.4:
        return change_of_lease(chance, world, sent)
    if not records:
        return None
    record = chance.choice(records)
    fate = chance.random()
    if fate < 0.3:
        return Delete(record.vsid, record.ca)
    if fate < 0.5:
        return Put(record)
    if fate < 0.7:
        return Put(moved(chance, record, world.network.hosts))
    if fate < 0.75:
        return Put(msgspec.structs.replace(record, mac=chance.choice(records).mac))
    if fate < 0.85:
        return Put(carried_otherwise(chance, world, record))
    # A further address of a VM, which a flow of the pool may be for.
    packet = sent.data if sent.outer is None else sent.data[22:]
    destination = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
    further = msgspec.structs.replace(record, ca=CustomerAddress(destination), translation=Translation.ENCAP)
    return Put(moved(chance, further, world.network.hosts))


def change_of_lease(chance: random.Random, world: World, sent: Sent) -> Change | None:
    """A lease that ends, or comes back: mostly one that a flow of the pool rests on."""
    leases = [holder for _, holder in sorted(world.holders.items()) if isinstance(holder, Lease)]
    if not leases:
        return None
    used = [each for each in leases if bytes(each.ca) in sent.data or bytes(each.pa) in sent.data]
    lease = chance.choice(used if used and chance.random() < 0.8 else leases)
    return DeleteLease(lease.pa) if chance.random() < 0.5 else PutLease(lease)


def carried_otherwise(chance: random.Random, world: World, record: LookupRecord) -> LookupRecord:
    """The record with the other translation, at the same host."""
    host = next(host for host in world.network.hosts if host.name == record.host)
    if record.translation is Translation.REWRITE:
        return msgspec.structs.replace(
            record, translation=Translation.ENCAP, pa=chance.choice(host.provider_addresses)
        )
    return moved(chance, msgspec.structs.replace(record, translation=Translation.REWRITE), (host,))


def play(chance: random.Random) -> None:
    world = generate(chance)
    pool = flows(chance, world)
    if not pool:
        return
    records = sorted(
        {
            (record.vsid, record.ca): record for node in world.nodes.values() for record in node.directory
        }.values(),
        key=lambda record: (record.vsid, record.ca),
    )
    pairs = {name: pair(world.nodes[name]) for name in sorted({sent.node for sent in pool})}
    now = 0.0
    for _ in range(STEPS):
        sent = chance.choice(pool)
        fate = chance.random()
        if fate < 0.8:
            verdict = pairs[sent.node].send(varied(chance, world, sent), now)
            if isinstance(verdict, Held):
                end_the_wait(chance, world, pairs[sent.node], verdict, now)
        elif fate < 0.84 and world.children:
            site = chance.choice(sorted(world.children))
            both = pairs.get(gateway_of(world, site))
            if both is not None and chance.random() < 0.4:
                both.cached.sites.site_is_down(site)
                both.uncached.sites.site_is_down(site)
            elif both is not None:
                bring_up(chance, world, site, both.cached, both.uncached)
        elif fate < 0.94:
            changed = change(chance, world, sent, records)
            if changed is not None:
                for each in pairs.values():
                    each.change(changed, now)
        elif fate < 0.97:
            destination = chance.choice(sorted(world.at))
            pairs[sent.node].report(destination, chance.choice((1280, 1300, 1400)), now)
        else:
            now += chance.choice((0.001, 1.0, 40.0, 700.0))
            for each in pairs.values():
                each.expire(now)
    for each in pairs.values():
        each.compare()


def end_the_wait(chance: random.Random, world: World, both: Pair, held: Held, now: float) -> None:
    """Give a packet that waits its lease, refuse it that, or let it wait on."""
    fate = chance.random()
    if not isinstance(held.wanted, tuple) or fate < 0.3:
        return
    if fate < 0.5:
        both.refuse(*held.wanted, now)
    else:
        both.change(PutLease(world.lease(*held.wanted)), now)


@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 2)
@hypothesis.given(chance=st.randoms(use_true_random=False))
def test_cache_is_not_to_be_seen(chance: random.Random) -> None:
    play(chance)


def run(monkeypatch: pytest.MonkeyPatch, seed: int, worlds: int) -> Counter[str]:
    """Play so many games, and count how often the cache decided."""
    used: Counter[str] = Counter()
    original = Delivery.carry_known_untrusted

    def counting(
        self: Delivery,
        flow: Flow,
        outer: OuterHeader | None,
        outer_ecn: int,
        known: tuple[bytes, int, int],
        now: float,
    ) -> Verdict | None:
        verdict = original(self, flow, outer, outer_ecn, known, now)
        used[type(verdict).__name__] += 1
        if verdict is not None:
            used["to a site"] += isinstance(flow.way, Tunnel)
            used["from a site"] += flow.admitted_by is not None
            used["rewritten"] += isinstance(flow.way, Plain)
            used["from an address of its own"] += flow.came is not None
        return verdict

    monkeypatch.setattr(Delivery, "carry_known_untrusted", counting)
    for number in range(worlds):
        try:
            play(random.Random(f"{seed} {number}"))
        except Exception as failure:
            failure.add_note(f'play(random.Random("{seed} {number}"))')
            raise
    return used


def test_cache_that_decides_often_is_not_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = INPUTS // 200

    used = run(monkeypatch, 7637, worlds)

    assert used["Forward"] > worlds
    assert used["to a site"] > 0
    assert used["from a site"] > 0
    assert used["rewritten"] > 0
    assert used["from an address of its own"] > 0
    assert used["Drop"] > 0  # above the tenant's rate
    assert used["NoneType"] > 0  # something about the packet was special


@pytest.mark.soak
def test_cache_is_not_to_be_seen_in_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, 2890, INPUTS // STEPS)
