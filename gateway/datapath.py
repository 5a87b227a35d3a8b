"""What every data path offers: the builtin one, and that which programs a bridge."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

import trio

from gateway.forwarding.directory import Change, Holder
from gateway.forwarding.drops import Drops
from gateway.forwarding.happenings import Listener
from gateway.forwarding.verdicts import PortKey
from gateway.operating.report import Report
from gateway.sites.policies import Keyring
from gateway.sites.status import SiteStatus
from gateway.taps import Observer
from gateway.trace.explaining import Explanation
from gateway.trace.packets import Question
from policies.addresses import CustomerAddress, Vsid
from policies.errors import Problem
from policies.model import Appliance, LookupRecord
from policies.tables import Tables


class DataPath(Protocol):
    """Carries tenants' packets, by a network that it adopts and by records that it is told."""

    async def start(self, nursery: trio.Nursery, appliance: Appliance) -> None:
        """Carry packets in the nursery until that is cancelled. Raises ConfigurationError."""
        ...

    async def adopt(self, appliance: Appliance, keyring: Keyring) -> tuple[Problem, ...]:
        """Decide by an appliance's network from now on, or change nothing and raise ConfigurationError.

        Sites' files are read by the keyring, where they have not been. Of an appliance that takes no
        part in the lookup service, its records are taken over too.
        Return why some of its ports are not served; the next adoption tries them again.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Take changes of records over."""
        ...

    def find(self, vsid: Vsid, ca: CustomerAddress) -> LookupRecord | None:
        """Return a record as it is known here."""
        ...

    def holder(self, pa: bytes) -> Holder | None:
        """Return whose a provider address is that stands for one CA alone, or was a moment ago."""
        ...

    def held(self) -> Mapping[tuple[int, str], int]:
        """How many records each host holds in each virtual subnet, by VSID and name."""
        ...

    def in_use(self) -> Iterable[tuple[Vsid, CustomerAddress]]:
        """Return the records that have been used since this was last asked."""
        ...

    def probe(self, port: PortKey, ca: CustomerAddress) -> None:
        """Ask the VM at a port whether it has an address."""
        ...

    def used_leases(self) -> Iterable[bytes]:
        """Return the leased addresses that packets have used here since this was last asked."""
        ...

    def refuse(self, vsid: Vsid, ca: CustomerAddress) -> None:
        """Hear that no provider address can be had for a CA now: what waits for it is let go."""
        ...

    def tell(self, listener: Listener) -> None:
        """Have someone told from now on what happens here."""
        ...

    async def say_goodbye(self) -> None:
        """Tell whoever is connected that we go."""
        ...

    def report(self) -> Report:
        """The counters."""
        ...

    def explain(self, question: Question) -> Explanation:
        """Tell what would happen to a packet now, and change nothing. Raises ConfigurationError."""
        ...

    def observe(self, observer: Observer | None, tenants: Collection[str] | None = ()) -> None:
        """Show someone each packet of some tenants from now on, or of all for None, or show nobody any.

        Others' packets may be shown too. Raises ConfigurationError where that cannot be.
        """
        ...

    @property
    def tables(self) -> Tables:
        """What is decided by now."""
        ...

    @property
    def drops(self) -> Drops: ...

    def sites(self) -> list[SiteStatus]:
        """How each site is whose tunnel is here."""
        ...

    @property
    def in_words(self) -> str: ...
