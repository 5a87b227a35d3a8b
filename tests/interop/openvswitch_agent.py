"""The driver of Open vSwitch alone, as a process: by a configuration, and by records that a file is given.

Each line of the file is a record; a line is printed for whatever happens.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path

import trio

from gateway.forwarding.directory import Put, configured_directory
from gateway.forwarding.happenings import Happening, Heard
from gateway.forwarding.verdicts import PortKey
from gateway.host.openvswitch.driver import OpenVswitchDriver
from gateway.sites.policies import Keyring
from policies import config
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord

log = logging.getLogger("isthmus.test")


class Printer:
    """Prints what happens."""

    def port_opened(self, key: PortKey) -> None:
        log.info("opened %d %s", *key)

    def port_closed(self, key: PortKey) -> None:
        log.info("closed %d %s", *key)

    def happened(self, happening: Happening) -> None:
        if isinstance(happening, Heard):
            addresses = ",".join(str(address) for address in happening.addresses)
            kind = "announced" if happening.is_announcement else "spoke"
            log.info("heard %d %s: it %s %s", *happening.port, kind, addresses)


async def main(file: Path, records: Path) -> None:
    appliance = config.load(file)
    settings = appliance.underlay
    if settings is None or settings.mtu is None:
        raise ValueError("the agent is to be told an MTU")
    driver = OpenVswitchDriver(appliance, settings.mtu, configured_directory(appliance))
    driver.tell(Printer())
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        async with trio.open_nursery() as nursery:
            await driver.start(nursery, appliance)
            await driver.adopt(appliance, Keyring())
            nursery.start_soon(follow, trio.Path(records), driver)
            log.info("ready")
            async for _ in received:
                break
            await driver.say_goodbye()
            nursery.cancel_scope.cancel()


async def follow(file: trio.Path, driver: OpenVswitchDriver) -> None:
    read = 0
    while True:
        lines = (await file.read_text()).splitlines() if await file.exists() else []
        for line in lines[read:]:
            values = json.loads(line)
            record = LookupRecord(
                vsid=Vsid(values["vsid"]),
                ca=CustomerAddress.parse(values["ca"]),
                mac=MacAddress.parse(values["mac"]),
                pa=ProviderAddress.parse(values["pa"]),
                host=values["host"],
                epoch=values["revision"],
                revision=values["revision"],
            )
            driver.apply([Put(record)])
        read = len(lines)
        await trio.sleep(0.02)


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
