"""What a capture shows, whose packets it never shows, and that it keeps nobody waiting."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from gateway.emissions import Emitter
from gateway.forwarding.directory import Holder, Put, PutLease
from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.verdicts import (
    Drop,
    Forward,
    Held,
    ToPort,
    ToProvider,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.operating.capture import MOST_AT_ONCE, Captures, Frame, Told
from gateway.operating.commands import OWNER, Asker, NotAllowed, carry_out
from gateway.operating.sightings import HELD
from gateway.taps import Deciding, Observed, Observer, observed_sending
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError
from policies.model import Lease, Port, Translation
from policies.tables import Tables
from tests.networks import (
    BY_SEATTLE,
    VSIDS,
    ca,
    connected,
    frame,
    from_host,
    gateway,
    host,
    nvgre,
    on_premise,
    pa,
    port,
)
from tunnels.effects import Endpoint, Path, SiteKey
from tunnels.esp.associations import Sealed
from tunnels.esp.drops import EspDrop

NOW = 1_795_364_648.5
SEATTLES_PATH = Path(
    Endpoint(ProviderAddress.parse("192.0.2.254"), 4500), Endpoint(ProviderAddress.parse("203.0.113.7"), 4500)
)


class World:
    """A data path without sockets, that can be observed."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.forwarder = forwarder
        self.observer: Observer | None = None
        self.tenants: Collection[str] | None = ()
        self.refuses: int | None = None
        self._decide: Deciding = forwarder
        self._emitter = Emitter(
            forwarder.drops, self._send, self._send, self._seal, self._send, lambda _: None
        )
        self.captures = Captures(self, lambda: NOW)

    def observe(self, observer: Observer | None, tenants: Collection[str] | None = ()) -> None:
        self.observer, self.tenants = observer, tenants
        self._decide = (
            Observed(self.forwarder, self._port, observer) if observer is not None else self.forwarder
        )
        self._emitter.observe(observer, self._port)

    def holder(self, pa: bytes) -> Holder | None:
        return self.forwarder.directory.holder(pa)

    @property
    def tables(self) -> Tables:
        return self.forwarder.tables

    def receive(self, sender: str, tenant: str, subnet: str, inner: Packet) -> None:
        outer = from_host(sender, to=self.forwarder.node.name)
        self._emitter.carry_out(self._decide.from_underlay(outer, nvgre(tenant, subnet, inner), 0))

    def receive_octets(self, payload: bytes) -> None:
        self._emitter.carry_out(self._decide.from_underlay(from_host("hv1"), payload, 0))

    def speak(self, where: tuple[str, str, int], inner: Packet) -> None:
        self._emitter.carry_out(self._decide.from_port(port(*where), bytes(inner), 0))

    def come_from(self, site: SiteKey, packet: Packet) -> None:
        self._emitter.carry_out(self._decide.from_site(site, bytes(packet), BY_SEATTLE, 0, 0))

    def _port(self, key: Any) -> Port | None:
        return self.forwarder.node.ports.get(key)

    def _send(self, _packet: ToUnderlay | ToProvider | ToPort) -> None:
        if self.refuses is not None:
            raise OSError(self.refuses, "refused")

    def _seal(self, packet: ToSite) -> None:
        if self.observer is not None:
            sealed = Sealed(SEATTLES_PATH, True, bytes.fromhex("c000000100000001") + bytes(100))
            self.observer.site_out(packet.site, packet.packet, sealed)


def captured(world: World, happen: Callable[[], None], **wanted: Any) -> list[Frame]:
    """Return what a capture shows of what happens while it runs."""
    return told(world, happen, **wanted)[0]


def told(world: World, happen: Callable[[], None], **wanted: Any) -> tuple[list[Frame], int]:
    frames: list[Frame] = []
    lost: list[int] = []

    async def tell(each: Told) -> None:
        frames.extend(each.frames)
        lost.append(each.lost)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, world, tell, {"seconds": 1, **wanted})
            await trio.testing.wait_all_tasks_blocked()
            happen()
        assert world.observer is None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return frames, lost[-1]


async def start(
    world: World, tell: Callable[[Any], Awaitable[None]], wanted: dict[str, Any], asker: Asker = OWNER
) -> None:
    await carry_out(world.captures.commands(), asker, "capture", wanted, tell)


async def nobody_reads(_: Any) -> None:
    await trio.lowlevel.checkpoint()


def places(frames: Iterable[Frame]) -> list[tuple[str, str]]:
    return [(each.place, "in" if each.is_inbound else "out") for each in frames]


def both_speak(world: World) -> None:
    """Red and Blue, whose addresses are the same, each send from web to db, and to seattle."""
    for tenant in ("red", "blue"):
        world.receive("hv1", tenant, "web", frame(tenant, ("web", 5), ("db", 5)))
        to_site = frame(tenant, ("web", 5), ("db", 5))
        to_site[IP].dst = on_premise()
        world.receive("hv1", tenant, "web", Ether(bytes(to_site)[:14] + _rebuilt(to_site[IP])))


def _rebuilt(packet: Packet) -> bytes:
    for layer in (packet, packet.payload):
        layer.delfieldval("chksum")
    return bytes(packet)


def test_packet_is_shown_where_it_comes_in_and_where_it_leaves() -> None:
    world = World(gateway())
    inner = frame("red", ("web", 5), ("db", 5))

    frames = captured(world, lambda: world.receive("hv1", "red", "web", inner))

    assert places(frames) == [("red/web", "in"), ("red/db", "out")]
    assert all(each.at == NOW and each.is_ethernet and not each.dropped for each in frames)
    assert frames[0].octets == bytes(inner)
    assert Ether(frames[1].octets)[IP].ttl == 63


def test_outer_side_is_the_packet_of_the_underlay() -> None:
    world = World(gateway())
    inner = frame("red", ("web", 5), ("db", 5))

    frames = captured(world, lambda: world.receive("hv1", "red", "web", inner), side="outer")

    assert places(frames) == [("underlay 192.0.2.254", "in"), ("underlay 192.0.2.254", "out")]
    before, after = (IP(each.octets) for each in frames)
    assert (before.src, before.dst) == (str(pa("hv1")), str(pa("edge-1")))
    assert (after.src, after.dst) == (str(pa("edge-1")), str(pa("hv2")))
    assert before[GRE].key >> 8 == 5001
    assert after[GRE].key >> 8 == 5002
    for each in (before, after):
        whole = bytes(each)
        del each.chksum
        assert bytes(each) == whole


def test_both_sides_are_shown_together() -> None:
    world = World(gateway())
    frames = captured(
        world,
        lambda: world.receive("hv1", "red", "web", frame("red", ("web", 5), ("db", 5))),
        side="both",
    )
    assert [each.is_ethernet for each in frames] == [True, False, True, False]


@pytest.mark.parametrize("side", ["inner", "outer", "both"])
def test_filter_by_tenant_shows_no_packet_of_another(side: str) -> None:
    world = World(connected())

    everything = captured(world, lambda: both_speak(world), side=side)
    red = captured(world, lambda: both_speak(world), side=side, tenant="red")

    assert {each.tenant for each in everything} == {"red", "blue"}
    assert {each.tenant for each in red} == {"red"}
    assert len(red) == len(everything) / 2
    if side != "inner":
        vsids = {IP(each.octets)[GRE].key >> 8 for each in red if GRE in IP(each.octets)}
        assert vsids == {5001, 5002}


def test_filter_by_site_shows_both_ways_of_its_tunnel_and_nothing_else() -> None:
    world = World(connected())

    def happen() -> None:
        both_speak(world)
        world.come_from(("red", "seattle"), IP(src=on_premise(), dst=ca("web", 5)) / UDP() / Raw(b"x"))

    frames = captured(world, happen, site="red/seattle", side="both")

    assert places(frames) == [
        ("red/seattle", "out"),
        ("underlay 192.0.2.254", "out"),
        ("red/seattle", "in"),
    ]
    assert captured(world, happen, tenant="red", site="seattle") == [frames[0], frames[2]]
    outer = IP(frames[1].octets)
    assert (outer.dst, outer[UDP].sport, outer[UDP].dport) == ("203.0.113.7", 4500, 4500)


WEB5_PA, DB5_PA, SEATTLE_PA = map(ProviderAddress.parse, ("198.51.100.130", "203.0.113.130", "192.0.2.130"))


class RewritingWorld(World):
    """Red's web5 on hv1 and db5 on hv2 are rewritten, and a server in seattle has a lease at edge-1."""

    def __init__(self, verdict: Verdict = Forward(())) -> None:  # noqa: B008 - it is immutable
        super().__init__(connected())
        directory = self.forwarder.directory
        for subnet, own in (("web", WEB5_PA), ("db", DB5_PA)):
            record = directory.find(VSIDS["red", subnet], CustomerAddress.parse(ca(subnet, 5)))
            assert record is not None
            directory.apply(Put(msgspec.structs.replace(record, pa=own, translation=Translation.REWRITE)))
        lease = Lease(SEATTLE_PA, Vsid(5001), CustomerAddress.parse(on_premise()), "edge-1")
        directory.apply(PutLease(lease))
        self.verdict = verdict

    def come_plain(self, packet: Packet | bytes) -> None:
        assert self.observer is not None
        self.observer.provider_in(bytes(packet), self.verdict)

    def leave_plain(self, packet: Packet, subnet: str) -> None:
        def send(_: ToProvider) -> None:
            if self.refuses is not None:
                raise OSError(self.refuses, "refused")

        assert self.observer is not None
        with suppress(OSError):
            sent = ToProvider(bytes(packet), Vsid(VSIDS["red", subnet]), "red")
            observed_sending(send, self.observer.provider_out)(sent)


def plain(source: ProviderAddress, destination: ProviderAddress) -> Packet:
    return IP(src=str(source), dst=str(destination)) / TCP(sport=1111, dport=5432, flags="S")


def test_rewritten_packet_has_customer_addresses_inside_and_provider_addresses_outside() -> None:
    world = RewritingWorld()

    def happen() -> None:
        world.come_plain(plain(DB5_PA, SEATTLE_PA))
        world.leave_plain(plain(SEATTLE_PA, DB5_PA), "db")

    frames = captured(world, happen, side="both")

    assert places(frames) == [("red/db", "in"), ("underlay", "in"), ("red/db", "out"), ("underlay", "out")]
    assert all(each.is_rewritten and not each.is_ethernet and each.tenant == "red" for each in frames)
    inner, outer = IP(frames[0].octets), frames[1].octets
    assert outer == bytes(plain(DB5_PA, SEATTLE_PA))
    expected = IP(src=ca("db", 5), dst=on_premise()) / TCP(sport=1111, dport=5432, flags="S")
    assert bytes(inner) == bytes(expected)


def test_error_about_a_rewritten_packet_quotes_customer_addresses_inside() -> None:
    world = RewritingWorld()
    quoted = plain(DB5_PA, WEB5_PA)
    error = IP(src=str(WEB5_PA), dst=str(DB5_PA)) / ICMP(type=3, code=3) / Raw(bytes(quoted)[:28])

    (frame,) = captured(world, lambda: world.come_plain(error))

    inner = IP(frame.octets)
    assert (inner.src, inner.dst) == (ca("web", 5), ca("db", 5))
    assert (inner[IPerror].src, inner[IPerror].dst) == (ca("db", 5), ca("web", 5))


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"tenant": "red"}, 2),
        ({"tenant": "blue"}, 0),
        ({"address": ca("db", 5)}, 2),
        ({"address": on_premise()}, 1),
        ({"address": str(DB5_PA)}, 0),
        ({"host": "hv1"}, 1),
        ({"host": "hv2"}, 2),
        ({"host": "edge-1"}, 1),
        ({"host": str(DB5_PA)}, 2),
        ({"vsid": 5002}, 2),
        ({"vsid": 5001}, 0),
    ],
)
def test_filters_find_rewritten_packets_by_whose_their_addresses_are(
    wanted: dict[str, Any], count: int
) -> None:
    world = RewritingWorld()

    def happen() -> None:
        world.come_plain(plain(DB5_PA, SEATTLE_PA))
        world.come_plain(plain(WEB5_PA, DB5_PA))

    assert len(captured(world, happen, **wanted)) == count


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x45" + bytes(10), id="too short"),
        pytest.param(b"\x45\x00\xff\xff" + bytes(16), id="with a false length"),
        pytest.param(plain(DB5_PA, ProviderAddress.parse("192.0.2.131")), id="to nobody's address"),
    ],
)
def test_plain_packet_that_is_nobodys_is_shown_by_its_outer_side_to_no_tenant(packet: Packet | bytes) -> None:
    world = RewritingWorld(Drop(DropReason.UNKNOWN_PROVIDER_ADDRESS))
    assert captured(world, lambda: world.come_plain(packet), tenant="red") == []

    (frame,) = captured(world, lambda: world.come_plain(packet), dropped=True)

    assert (frame.place, frame.tenant, frame.dropped) == ("underlay", "", "unknown-provider-address")


def test_plain_packet_from_a_stranger_is_not_shown_in_customer_addresses() -> None:
    world = RewritingWorld(Held(ProviderAddress.parse("203.0.113.131"), "red"))
    packet = plain(ProviderAddress.parse("203.0.113.131"), DB5_PA)

    assert captured(world, lambda: world.come_plain(packet)) == []
    (frame,) = captured(world, lambda: world.come_plain(packet), side="outer")

    assert (frame.tenant, frame.octets) == ("red", bytes(packet))
    assert frame.end == "held: waits for a provider address"


def test_rewritten_packet_that_the_kernel_refuses_is_shown_as_dropped() -> None:
    world = RewritingWorld()
    world.refuses = errno.EMSGSIZE

    (frame,) = captured(world, lambda: world.leave_plain(plain(SEATTLE_PA, DB5_PA), "db"))

    assert frame.end == "dropped: too-big"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"address": ca("db", 5)}, 4),
        ({"address": "10.0.2.0/24"}, 4),
        ({"address": on_premise()}, 4),
        ({"address": "fd00:1::/64"}, 0),
        ({"vsid": 6002}, 1),
        ({"host": "hv2"}, 2),
        ({"host": "198.51.100.11"}, 4),
        ({"host": "203.0.113.7"}, 2),
        ({"tenant": "blue", "address": ca("db", 5)}, 2),
    ],
)
def test_each_filter_chooses_and_all_have_to_match(wanted: dict[str, Any], count: int) -> None:
    world = World(connected())
    assert len(captured(world, lambda: both_speak(world), **wanted)) == count


def test_only_what_is_dropped_is_shown_with_its_reason() -> None:
    world = World(gateway())

    def happen() -> None:
        world.receive("hv1", "red", "web", frame("red", ("web", 5), ("db", 5)))
        world.receive("hv2", "red", "web", frame("red", ("web", 5), ("db", 5), ttl=1))
        world.receive_octets(b"\x00\x00\x65\x58" + bytes(40))

    frames = captured(world, happen, dropped=True)

    assert [(each.place, each.dropped) for each in frames] == [
        ("red/web", "hop-limit"),
        ("underlay 192.0.2.254", "not-nvgre"),
    ]


def test_what_nobody_owns_is_shown_to_no_filter_by_tenant() -> None:
    world = World(gateway())

    def happen() -> None:
        for header in ("00006558", "20000800", "30006558", "2000"):
            world.receive_octets(bytes.fromhex(header) + (5001 << 8).to_bytes(4) + bytes(40))
        world.receive_octets(b"")

    assert captured(world, happen, tenant="red", side="both") == []
    assert [each.dropped for each in captured(world, happen, side="both")] == [
        *(["not-nvgre"] * 4),
        "malformed",
    ]


def test_packet_that_the_kernel_refuses_is_shown_as_dropped() -> None:
    world = World(gateway())
    world.refuses = errno.EMSGSIZE
    frames = captured(
        world, lambda: world.receive("hv1", "red", "web", frame("red", ("web", 5), ("db", 5))), dropped=True
    )
    assert [(each.place, each.dropped) for each in frames] == [("red/db", "too-big")]


def test_ports_of_a_host_are_places_of_their_own() -> None:
    world = World(host("hv1"))

    frames = captured(world, lambda: world.speak(("red", "web", 5), frame("red", ("web", 5), ("db", 6))))
    assert places(frames) == [("red/web red-web5", "in"), ("red/db red-db6", "out")]

    world.refuses = errno.ENETDOWN
    frames = captured(
        world, lambda: world.speak(("red", "web", 5), frame("red", ("web", 5), ("db", 6))), dropped=True
    )
    assert [(each.place, each.dropped) for each in frames] == [("red/db red-db6", HELD)]


def test_esp_that_is_not_decrypted_is_its_sites_where_its_spi_is_known() -> None:
    world = World(connected())

    def happen() -> None:
        assert world.observer is not None
        world.observer.esp_in(("red", "seattle"), SEATTLES_PATH, bytes(60), 0, EspDrop.REPLAYED)
        world.observer.esp_in(None, SEATTLES_PATH, bytes(60), 0, EspDrop.UNKNOWN_SPI)
        world.observer.site_out(("red", "seattle"), bytes(IP() / UDP()), EspDrop.NO_CHILD)

    everything = captured(world, happen, side="both", dropped=True)
    assert [(each.place, each.dropped) for each in everything] == [
        ("underlay 192.0.2.254", "esp: replayed"),
        ("underlay 192.0.2.254", "esp: unknown-spi"),
        ("red/seattle", "esp: no-child"),
    ]
    assert captured(world, happen, side="both", site="red/seattle") == [everything[0], everything[2]]


def test_key_exchange_is_on_the_outer_side_of_the_site_that_it_is_for() -> None:
    world = World(connected())

    def happen() -> None:
        assert world.observer is not None
        world.observer.ike(("red", "seattle"), SEATTLES_PATH, bytes(28), is_inbound=True)
        world.observer.ike(None, SEATTLES_PATH, bytes(28), is_inbound=True)

    (ours,) = captured(world, happen, tenant="red", side="outer")
    datagram = IP(ours.octets)
    assert (datagram.src, datagram[UDP].dport, bytes(datagram[UDP].payload)) == (
        "203.0.113.7",
        4500,
        bytes(4 + 28),
    )
    assert len(captured(world, happen, side="outer")) == 2
    assert captured(world, happen) == []


def test_capture_ends_with_its_last_packet() -> None:
    world = World(gateway())

    def happen() -> None:
        for _ in range(5):
            world.receive("hv1", "red", "web", frame("red", ("web", 5), ("db", 5)))

    assert len(captured(world, happen, frames=3)) == 3
    octets = len(bytes(frame("red", ("web", 5), ("db", 5))))
    assert len(captured(world, happen, octets=octets + 1)) == 2


def test_packets_are_cut_to_the_octets_that_are_wanted() -> None:
    world = World(gateway())
    inner = frame("red", ("web", 5), ("db", 5))
    frames = captured(world, lambda: world.receive("hv1", "red", "web", inner), snaplen=20)
    assert frames[0].octets == bytes(inner)[:20]
    assert frames[0].length == len(bytes(inner))


def test_forwarding_does_not_wait_for_a_reader_and_the_reader_learns_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.operating.capture._QUEUED_FRAMES", 10)
    world = World(gateway())
    sent = 100

    def happen() -> None:
        for _ in range(sent):
            world.receive("hv1", "red", "web", frame("red", ("web", 5), ("db", 5)))

    frames, lost = told(world, happen)

    assert len(frames) == 10
    assert lost == 2 * sent - 10


def test_only_so_many_captures_run_together_and_the_last_one_ends_the_looking() -> None:
    world = World(gateway())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(MOST_AT_ONCE):
                nursery.start_soon(start, world, nobody_reads, {})
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConfigurationError, match="4 captures run already"):
                await start(world, nobody_reads, {})
            assert world.observer is not None
            nursery.cancel_scope.cancel()
        assert world.observer is None

    trio.run(main)


def test_data_path_hears_whose_packets_are_wanted_so_that_no_others_are_slower() -> None:
    world = World(gateway())
    heard: list[Collection[str] | None] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def change(scope: trio.CancelScope | None = None, **wanted: Any) -> trio.CancelScope:
                """End a capture, or begin one, and take down what the data path hears of it."""
                if scope is None:
                    scope = trio.CancelScope()
                    nursery.start_soon(within, scope, wanted)
                else:
                    scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                heard.append(world.tenants)
                return scope

            async def within(scope: trio.CancelScope, wanted: dict[str, Any]) -> None:
                with scope:
                    await start(world, nobody_reads, wanted)

            red, blue, anything = await change(tenant="red"), await change(tenant="blue"), await change()
            for ended in (anything, red, blue):
                await change(ended)

    trio.run(main)

    assert heard == [{"red"}, {"red", "blue"}, None, {"red", "blue"}, {"blue"}, ()]


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"tenant": "green"}, "tenant: there is no green; there are: blue, red"),
        ({"site": "seattle"}, "site: 'seattle' is not TENANT/SITE"),
        ({"site": "red/rome"}, "site: there is no rome; there are: seattle"),
        ({"vsid": 7777}, "vsid: there is no 7777"),
        ({"host": "hv9"}, "host: there is no hv9; there are: edge-1, hv1, hv2"),
        ({"address": "10.0.1.300"}, "address: "),
        ({"frames": 0}, "frames"),
        ({"frames": 10_000_000}, "frames"),
        ({"side": "upper"}, "side"),
    ],
)
def test_filter_that_would_never_match_is_refused_in_words(wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        trio.run(start, World(connected()), nobody_reads, wanted)
    assert complaint in str(caught.value.problems[0])


def test_packets_are_shown_to_operators_alone() -> None:
    reader = Asker("a customer", is_operator=False, tenants=frozenset({"red"}))
    with pytest.raises(NotAllowed, match="capture is for operators"):
        trio.run(start, World(gateway()), nobody_reads, {"tenant": "red"}, reader)
