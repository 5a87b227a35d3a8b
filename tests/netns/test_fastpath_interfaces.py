"""A gateway with two links to the underlay: packets come by one and go by the same, or by the other.

    hv1, by IPv4            hv2, by IPv6
          +----- underlay -----+
               |        |
           eth1 |        | eth2
               edge-1 (isthmus run)

What is for hv2 leaves by eth2 and what hv2 sends comes by it; all else goes by eth1, where the provider
addresses are.
"""

from __future__ import annotations

import json
import time

import pytest

from gateway.lab import nodes
from gateway.lab.far_end import takes_redirected_frames
from gateway.lab.namespaces import connect, tool
from gateway.lab.topology import UPLINK
from tests.netns.numbered import IN_THE_LONG_RUN, NumberedWorld, flows, mostly_carried_by, plan
from tests.netns.rewriting import show

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("require_bpf")]

SECOND = "eth2"
BRIDGE = "br-phy"
"""With the second link as its only port: bridges have no native XDP."""


class TwoLinks(NumberedWorld):
    """Both links are built before anything runs."""

    def __init__(self, second: str, mode: str) -> None:
        self._second = second

        def change(text: str) -> str:
            interfaces = json.dumps([UPLINK, second])
            text = text.replace("[underlay]\n", f"[underlay]\ninterfaces = {interfaces}\n")
            return f'{text}\n[fastpath]\nmode = "{mode}"\n'

        super().__init__(plan(engine="xdp"), change=change)

    def build(self) -> None:
        super().build()
        self.connect_second()
        self.wait_until_ready([self.node("edge-1"), self.router])

    def connect_second(self) -> None:
        """Build the second link; it may have been there before."""
        edge, router = self.node("edge-1"), self.router
        connect(edge, SECOND, router, "second")
        if self._second == BRIDGE:
            edge.ip(f"link add {BRIDGE} type bridge mcast_snooping 0", f"link set {SECOND} master {BRIDGE}")
        edge.ip(
            f"link set {SECOND} up",
            f"link set {self._second} up",
            f"address add 2001:db8:0:2::254/64 dev {self._second}",
            "route add 2001:db8:2::/64 via 2001:db8:0:2::1",
        )
        router.ip(
            "link set second up",
            "address add 2001:db8:0:2::1/64 dev second",
            "route add 2001:db8::254/128 via 2001:db8:0:2::254",
        )
        router.call(self._far_ends.enter_context, takes_redirected_frames("second"))

    def received(self, interface: str) -> int:
        """How many packets have come to the gateway by an interface."""
        (link,) = json.loads(
            self.node("edge-1").run(tool("ip"), "-json", "-s", "link", "show", interface).stdout
        )
        return int(link["stats64"]["rx"]["packets"])


@pytest.mark.parametrize(
    ("second", "mode", "attached"),
    [
        (SECOND, "auto", "native"),
        pytest.param(SECOND, "generic", "generic", marks=IN_THE_LONG_RUN),
        (BRIDGE, "auto", "generic"),
    ],
    ids=["native", "generic", "one has no native XDP"],
)
def test_packets_come_and_go_by_both_links(second: str, mode: str, attached: str) -> None:
    with TwoLinks(second, mode) as world:
        world.write()
        world.start_gateway()
        with world.traffic(flows(world.plan), rate=500):
            time.sleep(1)  # until every next hop is known
        before = world.report()
        came = {name: world.received(name) for name in (UPLINK, SECOND)}
        with world.traffic(flows(world.plan), rate=1000) as outcome:
            time.sleep(2)
        came = {name: world.received(name) - count for name, count in came.items()}
        after = world.report()
        show(f"{after['fastpath']['interfaces']}: {outcome}; came by {came}")

        outcome.assert_nothing_wrong()
        assert outcome.missing == 0
        mostly_carried_by(world, before, outcome)
        modes = {each["interface"]: each["mode"] for each in after["fastpath"]["interfaces"]}
        assert modes == {UPLINK: attached, second: attached}
        # What hv1 and hv2 send comes by a link of its own.
        for name in (UPLINK, SECOND):
            assert came[name] >= outcome.packets * 0.4


def test_far_end_that_takes_no_redirected_frames_has_the_fast_path_be_generic() -> None:
    """As a veth is by default: in native mode every redirected packet would be lost."""
    world = NumberedWorld(plan(engine="xdp"))
    with world:
        world._far_ends.close()
        world.write()
        world.start_gateway()
        with world.traffic(flows(world.plan), rate=500):
            time.sleep(1)
        before = world.report()
        with world.traffic(flows(world.plan), rate=1000) as outcome:
            time.sleep(1)

        outcome.assert_nothing_wrong()
        assert outcome.missing == 0
        mostly_carried_by(world, before, outcome)
        (interface,) = nodes.counters(world.gateway)["fastpath"]["interfaces"]
        show(interface)
        assert interface["mode"] == "generic"
        assert interface["why"]


@pytest.mark.interop
@pytest.mark.long
def test_link_that_changes_sides_under_traffic_loses_nothing_but_what_is_on_its_way() -> None:
    """Routes move from one link to the other and back: next hops follow, and nothing goes wrong."""
    with TwoLinks(SECOND, "auto") as world:
        world.write()
        world.start_gateway()
        edge = world.node("edge-1")
        with world.traffic(flows(world.plan), rate=500):
            time.sleep(1)
        with world.traffic(flows(world.plan), rate=1000) as outcome:
            for via in ("2001:db8::1", "2001:db8:0:2::1") * 3:
                time.sleep(0.3)
                edge.ip(f"route replace 2001:db8:2::/64 via {via}")
            time.sleep(0.5)
        show(f"six changes of the route to hv2: {outcome}")

        outcome.assert_nothing_wrong()
        assert outcome.missing <= outcome.packets / 100


@pytest.mark.interop
@pytest.mark.long
def test_link_that_is_made_anew_is_used_again_and_the_other_one_all_the_time() -> None:
    with TwoLinks(SECOND, "auto") as world:
        world.write()
        world.start_gateway()
        edge = world.node("edge-1")
        with world.traffic(flows(world.plan), rate=500):
            time.sleep(1)
        with world.traffic(flows(world.plan), rate=1000) as outcome:
            time.sleep(1)
            edge.ip(f"link delete {SECOND}")
            time.sleep(2)
            world.connect_second()
            time.sleep(4)
        show(f"the second link deleted and made anew: {outcome}")
        before = world.report()
        came = world.received(SECOND)
        with world.traffic(flows(world.plan), rate=1000) as then:
            time.sleep(2)
        after = world.report()

        outcome.assert_nothing_wrong()
        # By the other link all that hv1 is sent by hv1 goes on: nobody of hv2's is in that.
        on_hv1 = [flow for flow in outcome.flows if (flow.source.host, flow.target.host) == ("hv1", "hv1")]
        assert on_hv1
        assert [flow for flow in on_hv1 if outcome.lost(flow)] == []
        then.assert_nothing_wrong()
        assert then.missing == 0
        mostly_carried_by(world, before, then)
        assert after["fastpath"]["carried"] - before["fastpath"]["carried"] >= then.packets * 0.95
        assert world.received(SECOND) - came >= then.packets * 0.4
        assert {each["mode"] for each in after["fastpath"]["interfaces"]} == {"native"}
