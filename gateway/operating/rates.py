"""What is carried and dropped each second, from two looks at the counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from gateway.operating.report import Carried
from gateway.operating.status import Traffic

Order = Literal["packets", "bits", "tenant"]
ORDERS: tuple[Order, ...] = ("bits", "packets", "tenant")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, virtual subnet or site. Rates are per second, `from` there and `to` there."""

    tenant: str
    kind: str
    """tenant, subnet or site."""
    name: str
    from_packets: float
    from_bits: float
    to_packets: float
    to_bits: float
    is_up: bool | None = None
    """Of a site that is dialled here."""

    @property
    def packets(self) -> float:
        """Both ways."""
        return self.from_packets + self.to_packets

    @property
    def bits(self) -> float:
        """Both ways."""
        return self.from_bits + self.to_bits


class DropRate(msgspec.Struct, frozen=True):
    """Packets dropped each second, for a reason and of a tenant."""

    reason: str
    tenant: str
    packets: float


class Rates(msgspec.Struct, frozen=True):
    """What passed in some seconds."""

    seconds: float
    rows: list[Row]
    drops: list[DropRate]


_Key = tuple[str, str, str]


def between(before: Traffic, after: Traffic) -> Rates:
    """Return the rates between two looks. A counter that has begun anew counts from 0."""
    seconds = max(after.at - before.at, 1e-3)
    old, up = dict(_carried(before)), _up(after)
    rows = [_row(key, old.get(key), carried, seconds, up.get(key)) for key, carried in _carried(after)]
    dropped = {(drop.reason, drop.tenant): drop.packets for drop in before.drops}
    rates = [
        DropRate(
            drop.reason,
            drop.tenant,
            _grown(dropped.get((drop.reason, drop.tenant), 0), drop.packets) / seconds,
        )
        for drop in after.drops
    ]
    return Rates(
        seconds,
        [*_tenants(rows), *rows],
        sorted((each for each in rates if each.packets), key=lambda each: -each.packets),
    )


def ordered(rows: list[Row], order: Order) -> list[Row]:
    """Return rows with tenants together, each tenant's own row first: the busiest tenant, or by name."""
    totals = {row.tenant: row for row in rows if row.kind == "tenant"}

    def weight(row: Row) -> float:
        return 0.0 if order == "tenant" else -getattr(row, order)

    return sorted(
        rows,
        key=lambda row: (
            weight(totals[row.tenant]),
            row.tenant,
            row.kind != "tenant",
            weight(row),
            row.kind,
            row.name,
        ),
    )


def _carried(traffic: Traffic) -> Iterator[tuple[_Key, Carried]]:
    for subnet in traffic.subnets:
        yield (subnet.tenant, "subnet", subnet.subnet), subnet
    for site in traffic.sites:
        yield (site.tenant, "site", site.site), site


def _up(traffic: Traffic) -> dict[_Key, bool]:
    return {
        (site.tenant, "site", site.site): site.tunnel.is_up
        for site in traffic.sites
        if site.tunnel is not None
    }


def _row(key: _Key, before: Carried | None, after: Carried, seconds: float, is_up: bool | None) -> Row:
    tenant, kind, name = key
    old = before if before is not None else Carried()
    return Row(
        tenant=tenant,
        kind=kind,
        name=name,
        from_packets=_grown(old.sent_packets, after.sent_packets) / seconds,
        from_bits=8 * _grown(old.sent_octets, after.sent_octets) / seconds,
        to_packets=_grown(old.received_packets, after.received_packets) / seconds,
        to_bits=8 * _grown(old.received_octets, after.received_octets) / seconds,
        is_up=is_up,
    )


def _tenants(rows: list[Row]) -> Iterator[Row]:
    """Add up what each tenant's subnets and sites sent and received."""
    for tenant in sorted({row.tenant for row in rows}):
        own = [row for row in rows if row.tenant == tenant]
        yield Row(
            tenant=tenant,
            kind="tenant",
            name="",
            from_packets=sum(row.from_packets for row in own),
            from_bits=sum(row.from_bits for row in own),
            to_packets=sum(row.to_packets for row in own),
            to_bits=sum(row.to_bits for row in own),
        )


def _grown(before: int, after: int) -> int:
    return after - before if after >= before else after
