"""All commands of an appliance with two tenants, each of whom has something that the other must not see."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.builtin import Builtin
from gateway.changes.reload import Reload
from gateway.forwarding.directory import configured_directory
from gateway.lookout import Lookout
from gateway.lookup.movements import Move
from gateway.membership import Membership
from gateway.operating import events
from gateway.operating.commands import Commands
from gateway.operating.report import DropReport, Report, SiteReport, SubnetReport
from gateway.questions import commands_of
from gateway.sites.policies import Keyring
from gateway.sites.status import SiteStatus
from gateway.underlay.interfaces import Attachment
from policies.errors import Problem
from policies.model import Appliance, Engine, Network
from policies.services import LookupSettings
from tests.gateway.api.appliance import site_status
from tests.gateway.lookup.serving import BLUE, NETWORK, SEATTLE

# What nobody types below, so that an answer which has it has it from Blue.
SITE, SUBNET, HOST = "timbuktu", "blue-lagoon", "hv3"
MARKS = (SITE, SUBNET, HOST, str(int(BLUE)), "192.168.77", "blue-only")


def _network() -> Network:
    red, blue = NETWORK.tenants
    subnets = tuple(msgspec.structs.replace(each, name=SUBNET) for each in blue.subnets)
    hidden = msgspec.structs.replace(SEATTLE, name=SITE)
    blue = msgspec.structs.replace(blue, subnets=subnets, sites=(hidden,))
    return msgspec.structs.replace(NETWORK, tenants=(red, blue))


class Carrying(Builtin):
    """A data path that has carried and dropped something for both, though it is not started."""

    async def adopt(self, appliance: Appliance, keyring: Keyring) -> tuple[Problem, ...]:
        return ()

    def sites(self) -> list[SiteStatus]:
        return [site_status("red", "seattle"), site_status("blue", SITE)]

    def report(self) -> Report:
        return msgspec.structs.replace(
            super().report(),
            drops=[DropReport("no-record", "red", 7), DropReport("no-record", "blue", 8)],
            meters=[
                SubnetReport(tenant="red", subnet="web", vsid=5001, sent_packets=3),
                SubnetReport(tenant="blue", subnet=SUBNET, vsid=int(BLUE), sent_packets=4),
            ],
            sites=[
                SiteReport(tenant="red", site="seattle", mtu=1400),
                SiteReport(tenant="blue", site=SITE, mtu=1400),
            ],
            sources_elsewhere={"blue": 1},
        )


class Member(Membership):
    """Has seen a record of each move."""

    async def moves(self) -> list[Move]:
        return []


@asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[tuple[Commands, Network]]:
    """All commands of an appliance with both tenants, of whom something has happened to each."""
    network = _network()
    appliance = Appliance("edge-1", folder, Engine.PYTHON, None, True, LookupSettings(), None, network)
    path = Carrying(appliance, Attachment((), 1500), configured_directory(appliance))
    loop: Any = None
    source = Member(appliance, loop, path, Keyring())
    reload = Reload(source, lambda _file: appliance, Keyring(), wall_clock=trio.current_time)
    lookout = Lookout(appliance, path, trio.current_time, trio.current_time)
    if lookout.trends is not None:
        lookout.trends.add_point()
    log = logging.getLogger("isthmus.test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reload.run)
        with events.kept(trio.current_time) as happenings:
            for tenant, site, vsid in (("red", "seattle", 5001), ("blue", SITE, int(BLUE))):
                about = {"event": "site-down", "tenant": tenant, "site": site}
                log.warning("%s/%s is down", tenant, site, extra=about)
                log.warning("a VM of %s", tenant, extra={"event": "moved", "tenant": tenant, "vsid": vsid})
            yield commands_of(appliance, path, reload, happenings, source, lookout), network
        nursery.cancel_scope.cancel()
