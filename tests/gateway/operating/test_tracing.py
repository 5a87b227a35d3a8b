"""What a running appliance says it would do with a packet, and that asking it changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from gateway.forwarding.directory import DeleteLease, Put
from gateway.forwarding.pipeline import Forwarder
from gateway.host.uses import WatchedDirectory
from gateway.operating.commands import OWNER, Asker, NotAllowed, carry_out
from gateway.operating.tracing import commands
from gateway.trace.explaining import Explanation, explain_running
from policies.addresses import CustomerAddress, Vsid
from policies.errors import ConfigurationError
from tests.gateway.operating import plain_network as rewriting
from tests.networks import (
    BY_SEATTLE,
    SEATTLE,
    directory,
    gateway,
    host,
    network,
    pa,
    port,
    site,
    tenant,
)

READER = Asker("a customer", is_operator=False, tenants=frozenset({"red"}))
KEY = ("red", "seattle")


def dialling() -> Forwarder:
    """A gateway with a site for each tenant; none is up."""
    return gateway(network(*(tenant(name, sites=(site("seattle", *SEATTLE),)) for name in ("red", "blue"))))


def packet(source: str, destination: str, **more: Any) -> dict[str, Any]:
    return {"from": source, "to": destination, "tenant": "red", **more}


def ask(forwarder: Forwarder, wanted: dict[str, Any], asker: Asker = OWNER, now: float = 0.0) -> Explanation:
    """Ask as the command line and HTTP do: by name, in plain values."""
    offered = commands(lambda question: explain_running(forwarder, question, now))

    async def main() -> Any:
        return await carry_out(offered, asker, "trace", wanted, _never)

    answer = trio.run(main)
    assert isinstance(answer, Explanation)
    return answer


def test_packet_for_a_site_that_is_down_is_dropped_as_it_would_be() -> None:
    forwarder = dialling()

    explanation = ask(forwarder, packet("10.0.1.5", "172.16.0.9"))

    assert explanation.verdict.startswith("dropped: site-down")
    assert ("site", "seattle: site-down") in [(step.name, step.detail) for step in explanation.steps]


def test_mtu_of_the_tunnel_that_stands_decides() -> None:
    forwarder = dialling()
    forwarder.sites.site_is_up(KEY, 1300, [BY_SEATTLE])

    ends = "10.0.1.5", "172.16.0.9"
    assert ask(forwarder, packet(*ends, size=1300)).outcome == "forwarded"
    assert ask(forwarder, packet(*ends, size=1301)).verdict.startswith("dropped: too-big")


def test_nothing_comes_from_a_site_without_a_tunnel() -> None:
    explanation = ask(dialling(), packet("172.16.0.9", "10.0.1.5"))

    assert explanation.outcome == "dropped"
    assert explanation.steps[0].detail == "seattle has no tunnel now: nothing comes from there"


def test_path_mtu_that_was_reported_is_known_until_it_is_over() -> None:
    forwarder = gateway()
    assert forwarder.path_mtu_reported(pa("hv2"), 5002, 1400, now=0)

    large = packet("10.0.1.5", "10.0.2.5", size=1400)
    assert ask(forwarder, large, now=10).verdict.startswith("dropped: too-big")
    assert ask(forwarder, large, now=10_000).outcome == "forwarded"


def test_asking_counts_learns_and_wants_nothing() -> None:
    forwarder = dialling()
    wanted: list[object] = []
    forwarder.sites.on_wanted = wanted.append
    heard: list[object] = []
    forwarder.happenings.on_happening = heard.append

    ask(forwarder, packet("10.0.1.5", "172.16.0.9"))
    ask(forwarder, packet("10.0.1.5", "10.0.2.5", hop_limit=1))
    ask(forwarder, packet("10.0.1.5", "10.0.2.5", via="203.0.113.12"))

    assert not forwarder.drops.counts
    assert not wanted
    assert not heard
    assert not forwarder.sources_elsewhere
    assert len(forwarder.flows) == 0
    assert forwarder.notices.sent == 0
    assert all(meter.sent_packets == meter.received_packets == 0 for meter in forwarder.meters.values())


def test_record_that_is_only_asked_about_is_not_taken_for_used() -> None:
    known = WatchedDirectory(directory(network()))
    forwarder = host("hv1", known=known)
    known.take_read()

    assert ask(forwarder, packet("10.0.1.5", "10.0.1.6")).outcome == "forwarded"

    assert not known.take_read()


def test_vm_that_was_heard_here_before_its_record_came_is_known_to_be_here() -> None:
    forwarder, elsewhere = host("hv2"), host("hv1")
    key = port("red", "web", 5)
    forwarder.replace_tables(forwarder.tables, {**forwarder.node.ports, key: elsewhere.node.ports[key]})
    for record in forwarder.directory.find_by_mac(*key):
        forwarder.moves.apply([Put(msgspec.structs.replace(record, epoch=1))], 0)
    forwarder.moves.port_opened(key, 0)
    address = CustomerAddress.parse("10.0.1.5")
    forwarder.moves.residence.heard(key, address, is_announcement=True, now=0)

    explanation = ask(forwarder, packet("10.0.1.6", "10.0.1.5"))

    assert explanation.verdict == f"forwarded to the port of {key[1]} in web here"


def details(explanation: Explanation) -> dict[str, str]:
    return {step.name: step.detail for step in explanation.steps}


def test_host_says_by_which_provider_addresses_a_packet_goes_rewritten() -> None:
    explanation = ask(rewriting.host("hv1"), packet("10.0.1.5", "10.0.1.6"))

    assert explanation.verdict == "forwarded from 198.51.100.130 to 203.0.113.130, rewritten, web, 100 octets"
    assert "198.51.100.130" in details(explanation)["rewrite"]


def test_packet_that_needs_a_lease_first_is_said_to_wait_for_one() -> None:
    known = rewriting.directory(rewriting.network())
    known.apply(DeleteLease(rewriting.pa(rewriting.DB5)))

    explanation = ask(rewriting.host("hv1", known=known), packet("10.0.1.5", "10.0.2.5"))

    assert (explanation.outcome, explanation.verdict) == (
        "held",
        "held: it waits for a provider address, one that stands for 10.0.2.5",
    )


def test_lease_that_was_refused_a_moment_ago_is_not_waited_for() -> None:
    known = rewriting.directory(rewriting.network())
    known.apply(DeleteLease(rewriting.pa(rewriting.DB5)))
    host = rewriting.host("hv1", known=known)
    host.refuse(Vsid(5002), CustomerAddress.parse("10.0.2.5"), 0.0)

    explanation = ask(host, packet("10.0.1.5", "10.0.2.5"), now=1.0)

    assert explanation.verdict.startswith("dropped: no-lease")
    assert details(explanation)["rewrite"] == "no provider address could be had for 10.0.2.5 a moment ago"
    assert ask(host, packet("10.0.1.5", "10.0.2.5"), now=10.0).outcome == "held"


def test_gateway_takes_what_comes_from_a_rewritten_vm_by_the_lease_that_stands_for_its_destination() -> None:
    explanation = ask(rewriting.gateway(), packet("10.0.1.5", "10.0.2.5"))

    assert details(explanation)["lease"] == "192.0.2.130 of edge-1 stands for 10.0.2.5"
    assert "from 192.0.2.254 to 203.0.113.12 in NVGRE, VSID 5002 (db)" in explanation.verdict


def test_gateway_without_a_lease_for_it_says_where_the_packet_waits() -> None:
    explanation = ask(rewriting.gateway(), packet("10.0.1.5", "10.0.2.6"))

    assert explanation.outcome == "held"
    assert "no provider address of edge-1 stands for 10.0.2.6" in details(explanation)["lease"]


def test_gateway_translates_what_an_encapsulated_vm_sends_a_rewritten_one() -> None:
    explanation = ask(rewriting.gateway(), packet("10.0.2.5", "10.0.1.5"))

    assert explanation.verdict == "forwarded from 192.0.2.130 to 198.51.100.130, rewritten, web, 100 octets"


def test_what_two_rewritten_vms_send_each_other_does_not_come_to_the_gateway() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(rewriting.gateway(), packet("10.0.1.5", "10.0.1.6"))
    assert str(caught.value.problems[0]) == (
        "to: 10.0.1.6 is rewritten too, at hv2: what 198.51.100.130 sends it does not come here"
    )


def plain(source: str, destination: str) -> dict[str, Any]:
    return {"from_provider": source, "to_provider": destination}


def test_packet_between_two_provider_addresses_is_told_by_whose_they_are() -> None:
    explanation = ask(rewriting.host("hv2"), plain("198.51.100.130", "203.0.113.130"))

    told = details(explanation)
    assert told["sender"] == "198.51.100.130 is 10.0.1.5 of tenant red, at hv1"
    assert told["receiver"] == "203.0.113.130 is 10.0.1.6 of tenant red, at hv2"
    key = port("red", "web", 6)
    assert explanation.verdict == f"forwarded to the port of {key[1]} in web here"


def test_lease_is_told_by_what_it_stands_for() -> None:
    explanation = ask(rewriting.gateway(), plain("198.51.100.130", "192.0.2.130"))

    told = details(explanation)
    assert told["receiver"] == "192.0.2.130 stands for 10.0.2.5 of tenant red, leased by edge-1"
    assert "in NVGRE, VSID 5002 (db)" in explanation.verdict


@pytest.mark.parametrize(
    ("source", "destination", "told", "verdict"),
    [
        pytest.param(
            "203.0.113.131",
            "198.51.100.130",
            "203.0.113.131 is 10.0.1.6 of another tenant, VSID 6001, at hv2",
            "dropped: other-tenant",
            id="another tenant's",
        ),
        pytest.param(
            "8.8.8.8",
            "198.51.100.130",
            "8.8.8.8 is nobody's, of no pool",
            "dropped: unknown-provider-address",
            id="of no pool",
        ),
        pytest.param(
            "203.0.113.140",
            "198.51.100.130",
            "203.0.113.140 is nobody's, of a pool of hv2",
            "held: it waits for a provider address, until it is known whose 203.0.113.140 is",
            id="of a pool, not known yet",
        ),
        pytest.param(
            "203.0.113.130",
            "198.51.100.140",
            "203.0.113.130 is 10.0.1.6 of tenant red, at hv2",
            "held: it waits for a provider address, until it is known whose 198.51.100.140 is",
            id="to a pool's address, not known yet",
        ),
        pytest.param(
            "203.0.113.130",
            "8.8.8.8",
            "203.0.113.130 is 10.0.1.6 of tenant red, at hv2",
            "dropped: unknown-provider-address",
            id="to no pool",
        ),
    ],
)
def test_packet_between_provider_addresses_of_different_tenants_or_of_nobody_is_told_as_it_ends(
    source: str, destination: str, told: str, verdict: str
) -> None:
    known = rewriting.directory(rewriting.network())
    rewriting.rewrite(known, "blue", 6, "203.0.113.131")

    explanation = ask(rewriting.host("hv1", known=known), plain(source, destination))

    assert (details(explanation)["sender"], explanation.verdict) == (told, verdict)


def test_packet_by_the_provider_address_of_another_tenant_is_refused_without_saying_whose_it_is() -> None:
    known = rewriting.directory(rewriting.network())
    rewriting.rewrite(known, "blue", 6, "203.0.113.131")

    explanation = ask(
        rewriting.host("hv1", known=known), packet("10.0.1.6", "10.0.1.5", via="203.0.113.131"), READER
    )

    assert explanation.verdict == "dropped: other-tenant"
    assert details(explanation) == {"source": "203.0.113.131 is another tenant's"}


def test_reader_asks_about_no_provider_addresses() -> None:
    with pytest.raises(NotAllowed, match="those who see every tenant"):
        ask(rewriting.gateway(), plain("198.51.100.130", "192.0.2.130"), READER)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({}, "from: name both ends"),
        ({"from": "10.0.1.5"}, "from: name both ends"),
        ({"from_provider": "198.51.100.130"}, "from: name both ends"),
        (plain("198.51.100.130", "192.0.2.130") | {"from": "10.0.1.5"}, "from: name both ends"),
        (plain("198.51.100.130", "192.0.2.130") | {"tenant": "red"}, "tenant: whose a rewritten packet is"),
        (plain("198.51.100.130", "192.0.2.300"), "192.0.2.300"),
        (plain("198.51.100.130", "2001:db8::1"), "to: 2001:db8::1 is not of the same family"),
    ],
)
def test_question_by_half_its_ends_is_refused_in_words(wanted: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(rewriting.gateway(), wanted)
    assert complaint in str(caught.value.problems[0])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"tenant": None}, id="no tenant"),
        pytest.param({"tenant": "blue"}, id="another's"),
        pytest.param({"tenant": None, "vsid": 6001}, id="another's VSID"),
    ],
)
def test_reader_asks_about_no_other_tenant(more: dict[str, Any]) -> None:
    with pytest.raises(NotAllowed, match="name your tenant: red"):
        ask(gateway(), packet("10.0.1.5", "10.0.2.5", **more), READER)


def test_reader_learns_nothing_of_a_vsid_of_others() -> None:
    forwarder = gateway()
    for vsid in (6001, 7777):
        with pytest.raises(ConfigurationError) as caught:
            ask(forwarder, packet("10.0.1.5", "10.0.2.5", vsid=vsid), READER)
        assert str(caught.value.problems[0]) == f"vsid: VSID {vsid} is none of red's"


def test_reader_of_a_tenant_that_is_gone_learns_no_other_names() -> None:
    with pytest.raises(NotAllowed, match="there is no tenant red now"):
        ask(gateway(network(tenant("blue"))), packet("10.0.1.5", "10.0.2.5"), READER)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        pytest.param({"from": "10.0.1.300"}, "10.0.1.300", id="address"),
        pytest.param({"port": 70000}, "port: 70000 is not within 0 to 65535", id="port"),
        pytest.param({"size": -1}, "size: -1", id="size"),
        pytest.param({"vsid": 5}, "5", id="reserved VSID"),
        pytest.param({"colour": "red"}, "colour", id="unknown"),
    ],
)
def test_packet_that_cannot_be_is_refused_in_words(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(gateway(), packet("10.0.1.5", "10.0.2.5") | more)
    assert complaint in str(caught.value.problems[0])


def test_appliance_without_a_data_path_says_so() -> None:
    async def main() -> None:
        await carry_out(commands(None), OWNER, "trace", packet("10.0.1.5", "10.0.2.5"), _never)

    with pytest.raises(ConfigurationError, match="no packet comes to this appliance"):
        trio.run(main)


async def _never(_: Any) -> None:
    raise AssertionError("it answers once")
