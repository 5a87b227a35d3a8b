"""How the fast path is, as the engine knows it, and as much of that as is reported."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.fastpath.layout import Passed
from gateway.fastpath.nexthops import NextHopsStatus
from gateway.operating.report import DETACHED, AttachedReport, FastPathReport, LeftReport
from policies.model import FastPathMode

MOST_TOLD = 100
"""Of the tenants that are left to Python, and of the next hops that are not known: so many are named."""


class Attached(msgspec.Struct, frozen=True, gc=False):
    """One interface whose packets the program sees. `mode` is native or generic."""

    interface: str
    mode: FastPathMode
    why: str = ""
    """Why it is generic where native was tried, or not attached: what the kernel or the driver said."""
    is_there: bool = True
    """Whether it is still attached, when that was last looked at."""


class FastPathStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the fast path carries, and what it leaves to Python."""

    interfaces: tuple[Attached, ...]
    pinned: bool = False
    records: int
    """That the program finds."""
    capacity: int
    """How many it could."""
    without_place: int = 0
    """Records that it could carry, and that found no place."""
    tenants: int
    """That it carries."""
    left_to_python: Mapping[str, str] = {}
    """Tenants that it carries nothing of, each with why."""
    hops: NextHopsStatus
    """With `MOST_TOLD` examples."""
    carried: int = 0
    """Packets that it sent on."""
    passed: Mapping[str, int] = {}
    """Packets that it handed to Python, by why."""

    def report(self) -> FastPathReport:
        """Return what an operator is told: all counts, and a bounded number of names."""
        return FastPathReport(
            interfaces=[
                AttachedReport(each.interface, each.mode.value if each.is_there else DETACHED, each.why)
                for each in self.interfaces
            ],
            pinned=self.pinned,
            records=self.records,
            capacity=self.capacity,
            without_place=self.without_place,
            tenants=self.tenants,
            tenants_left=len(self.left_to_python),
            left_to_python=[
                LeftReport(tenant, self.left_to_python[tenant])
                for tenant in sorted(self.left_to_python)[:MOST_TOLD]
            ],
            hops_unresolved=self.hops.unresolved,
            unresolved=[str(each) for each in self.hops.examples],
            hops_resyncs=self.hops.resyncs,
            carried=self.carried,
            passed={each.word: self.passed.get(each.word, 0) for each in Passed},
        )
