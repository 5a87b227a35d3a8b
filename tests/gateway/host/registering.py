"""A host with one port, and what its registrar says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.host.registration import Claim, Effect, Registrar
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, Port, Translation

HERE = ProviderAddress.parse("198.51.100.11")
THERE = ProviderAddress.parse("203.0.113.12")
MAC = MacAddress.parse("02:00:00:00:01:05")
OTHER_MAC = MacAddress.parse("02:00:00:00:01:06")
CA = CustomerAddress.parse("10.0.1.5")
CA6 = CustomerAddress.parse("fd00:1::5")
VSID = Vsid(5001)
KEY = (VSID, MAC)
PORT = Port("vnet0", "red", VSID, MAC, (CA, CA6))
HOSTS = {"hv1": HERE, "hv2": THERE, "hv3": ProviderAddress.parse("203.0.113.13")}


class Host:
    """hv1 with one port: what its registrar says, and the records as hv1 knows them."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.records: dict[tuple[Vsid, CustomerAddress], LookupRecord] = {}
        self.revision = 0
        self.registrar = Registrar("hv1", HERE, self.find, lambda: jitter)
        assert self.registrar.configure([PORT], 0.0) == []

    def find(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        return self.records.get((vsid, ca))

    def put(self, host: str, now: float, mac: MacAddress = MAC) -> list[Effect]:
        """The records of both addresses change, one after the other."""
        effects: list[Effect] = []
        self.revision += 1
        for ca in PORT.addresses:
            self.records[VSID, ca] = LookupRecord(VSID, ca, mac, HOSTS[host], host, revision=self.revision)
            effects += self.registrar.record_changed(VSID, ca, now)
        return effects

    def rewrite(self, host: str, now: float, pas: Sequence[ProviderAddress]) -> list[Effect]:
        """The records of both addresses come to be rewritten ones, each with an address of its own."""
        effects: list[Effect] = []
        self.revision += 1
        for ca, pa in zip(PORT.addresses, pas, strict=True):
            self.records[VSID, ca] = LookupRecord(
                VSID, ca, MAC, pa, host, Translation.REWRITE, revision=self.revision
            )
            effects += self.registrar.record_changed(VSID, ca, now)
        return effects

    def delete(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for ca in PORT.addresses:
            del self.records[VSID, ca]
            effects += self.registrar.record_changed(VSID, ca, now)
        return effects

    def opened(self, now: float = 0.0) -> Claim:
        return claim(self.registrar.port_opened(KEY, now))

    def advance(self, until: float) -> Iterator[tuple[float, Effect]]:
        """What is done by itself up to a time, and when."""
        while (at := self.registrar.deadline) <= until:
            effects = self.registrar.handle_timeout(at)
            assert effects or self.registrar.deadline > at
            yield from ((at, effect) for effect in effects)


def claim(effects: list[Effect]) -> Claim:
    """The one claim that is made, and nothing else."""
    (effect,) = effects
    assert isinstance(effect, Claim)
    return effect
