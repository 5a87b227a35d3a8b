"""What differs between two configurations, and where.

Each difference stands at the key of appliance.toml that it concerns. A secret is never shown: of a file
whose content has changed only that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.changes import consequences
from gateway.changes.consequences import Turn
from gateway.changes.words import in_words
from policies.ipsec import Lifetimes
from policies.model import (
    AccessRule,
    Appliance,
    CustomerRoute,
    FastPathSettings,
    HostPort,
    HostRole,
    IkeIdentity,
    Limits,
    LookupRecord,
    Network,
    OpenVswitch,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    Underlay,
    VirtualSubnet,
)
from policies.services import ApiSettings, Credential, Etcd, LookupAccess, LookupSettings, ServerTls
from tunnels.effects import SiteKey
from tunnels.ike.credentials import Credentials
from tunnels.ike.policy import PeerPolicy


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One key that differs, and what comes of it."""

    path: str
    change: Turn
    old: str | None = None
    new: str | None = None
    effect: str = consequences.NOTHING
    needs_restart: bool = False
    tenant: str = ""
    """Whose it is; empty where it is nobody's alone."""
    site: str = ""

    def __str__(self) -> str:
        mark = {Turn.ADDED: "+", Turn.REMOVED: "-", Turn.CHANGED: "~"}[self.change]
        values = " -> ".join(value for value in (self.old, self.new) if value is not None)
        return f"{mark} {self.path}{f': {values}' if values else ''}"


def differences(
    before: Appliance,
    after: Appliance,
    policies_before: Iterable[PeerPolicy] = (),
    policies_after: Iterable[PeerPolicy] = (),
) -> list[Difference]:
    """Return everything that differs, in the order of the file: nothing where both are equal.

    The policies are those of the sites that each dials, with their credentials read.
    """
    old = {policy.site: policy for policy in policies_before}
    new = {policy.site: policy for policy in policies_after}
    walk = _Walk(before, after, old, new)
    found = list(walk.appliance())
    interrupting = (consequences.AGAIN, consequences.ENDS)
    told = {(each.tenant, each.site) for each in found if each.effect in interrupting}
    ike_of = _ike_in_both(before, after)
    unwritten: dict[str, list[Difference]] = {}
    for site in sorted(old.keys() & new.keys()):
        if old[site] != new[site]:
            more = _unwritten(old[site], new[site], ike_of.get(site), is_told=site in told)
            unwritten.setdefault(site[0], []).extend(more)
    return list(_with_more(found, unwritten))


def authenticated_again(before: Iterable[PeerPolicy], after: Iterable[PeerPolicy]) -> list[SiteKey]:
    """Return the sites whose peers are held to something else: see `tunnels.ike.peer`."""
    known = {policy.site: policy for policy in before}
    return sorted(policy.site for policy in after if policy.site in known and known[policy.site] != policy)


# The kinds that a file lists, each by the name of its table and by what tells one from another.
_LISTED: Mapping[type, tuple[Callable[[Any], str], Callable[[Any], object]]] = {
    ProviderHost: (lambda _: "provider_host", lambda each: each.name),
    ProviderGateway: (lambda _: "provider_gateway", lambda each: each.name),
    Tenant: (lambda _: "tenant", lambda each: each.name),
    VirtualSubnet: (lambda _: "subnet", lambda each: each.name),
    LookupRecord: (lambda _: "record", lambda each: each.ca),
    CustomerRoute: (lambda _: "route", lambda each: each.prefix),
    Site: (lambda _: "site", lambda each: each.name),
    AccessRule: (lambda _: "access", lambda each: each.name),
    HostPort: (lambda _: "port", lambda each: each.interface),
    Credential: (
        lambda each: "token" if each.token_file is not None else "certificate",
        lambda each: each.name,
    ),
}

# The kinds that are tables of their own, so that each of their keys is told.
_TABLES = (
    Underlay,
    FastPathSettings,
    LookupSettings,
    ApiSettings,
    LookupAccess,
    HostRole,
    OpenVswitch,
    ServerTls,
    Etcd,
    Limits,
    IkeIdentity,
    Lifetimes,
)

# Keys of the file that have another name than the field.
_KEYS: Mapping[tuple[type, str], str] = {
    (VirtualSubnet, "gateway_addresses"): "gateway",
    (CustomerRoute, "next_hop"): "via",
    (AccessRule, "source"): "from",
    (AccessRule, "destination"): "to",
    (Lifetimes, "ike_seconds"): "ike",
    (Lifetimes, "child_seconds"): "child",
    (Lifetimes, "child_bytes"): "bytes",
    (Lifetimes, "child_packets"): "packets",
    (LookupAccess, "nodes"): "lookup",
    **{
        (kind, field): key
        for kind in (ServerTls, Etcd, LookupAccess)
        for field, key in (
            ("certificate_file", "cert"),
            ("key_file", "key"),
            ("authority_file", "ca"),
            ("client_authority_file", "client_ca"),
        )
    },
}

_CREDENTIAL_KEYS = {
    "psk": "psk_file",
    "certificates": "certificate_file",
    "key": "key_file",
    "authorities": "authority_files",
    "revocations": "revocation_files",
}


class _Walk:
    """Goes through two appliances side by side."""

    def __init__(
        self,
        before: Appliance,
        after: Appliance,
        old: Mapping[SiteKey, PeerPolicy],
        new: Mapping[SiteKey, PeerPolicy],
    ) -> None:
        self._before = before
        self._after = after
        self._old = old
        self._new = new

    def appliance(self) -> Iterator[Difference]:
        before, after = self._before, self._after
        for field in ("name", "state", "engine", "log", "user"):
            yield from self._value(f"appliance.{field}", getattr(before, field), getattr(after, field))
        yield from self._value("underlay", before.underlay, after.underlay)
        yield from self._value("fastpath", before.fastpath, after.fastpath)
        yield from self._value("gateway", before.gateway, after.gateway)
        yield from self._value("gateway.site_addresses", before.site_addresses, after.site_addresses)
        yield from self._value("lookup", before.lookup, after.lookup)
        yield from self._value("api", before.api, after.api)
        yield from self._value("host", before.host, after.host)
        asking = "host" if after.host is not None else "gateway"
        # Both keys say it, and stand in the section of whoever asks.
        if (before.lookup_access is None) != (after.lookup_access is None):
            yield from self._value(f"{asking}.lookup", before.lookup_access, after.lookup_access)
        else:
            yield from self._value(asking, before.lookup_access, after.lookup_access)
        for field in Network.__struct_fields__:
            yield from self._listed("", getattr(before.network, field), getattr(after.network, field))

    def _value(
        self, path: str, old: object, new: object, owner: object = None, site: SiteKey | None = None
    ) -> Iterator[Difference]:
        if old == new:
            return
        if path == f"provider_gateway[{self._after.name}].pools" and self._after.gateway:
            path = "gateway.pools"  # where a gateway's own file has them
        if isinstance(old, _TABLES) and type(old) is type(new):
            yield from self._fields(path, old, new, site)
        elif _is_listed(old) or _is_listed(new):
            yield from self._listed(path.rpartition(".")[0], old, new)
        else:
            turn = Turn.ADDED if old in (None, ()) else Turn.REMOVED if new in (None, ()) else Turn.CHANGED
            yield self._told(path, turn, old, new, owner, site)

    def _fields(
        self, path: str, old: object, new: object, site: SiteKey | None = None
    ) -> Iterator[Difference]:
        kind = type(old)
        for field in kind.__struct_fields__:  # type: ignore[attr-defined]
            key = _KEYS.get((kind, field), field)
            yield from self._value(f"{path}.{key}", getattr(old, field), getattr(new, field), old, site)

    def _listed(self, path: str, old: object, new: object) -> Iterator[Difference]:
        before, after = _by_path(path, old), _by_path(path, new)
        for each, value in before.items():
            if each not in after:
                yield self._told(each, Turn.REMOVED, value, None, value, self._site_at(each, value))
        for each, value in after.items():
            site = self._site_at(each, value)
            if each not in before:
                yield self._told(each, Turn.ADDED, None, value, value, site)
            else:
                yield from self._fields(each, before[each], value, site)
        kept = [each for each in before if each in after]
        again = [each for each in after if each in before]
        if kept != again:
            where = kept[0].rpartition("[")[0]
            yield self._told(where, Turn.CHANGED, _order(kept, where), _order(again, where))

    def _site_at(self, path: str, value: object) -> SiteKey | None:
        return (_named(path, "tenant"), value.name) if isinstance(value, Site) else None

    def _told(
        self,
        path: str,
        turn: Turn,
        old: object,
        new: object,
        owner: object = None,
        site: SiteKey | None = None,
    ) -> Difference:
        if needs_restart := consequences.needs_restart(path):
            effect = consequences.RESTART
        elif site is not None:
            effect = consequences.for_site(path, turn, self._old.get(site), self._new.get(site))
        else:
            effect = consequences.in_general(path, turn, owner)
        return Difference(
            path=path,
            change=turn,
            old=None if turn is Turn.ADDED else in_words(old),
            new=None if turn is Turn.REMOVED else in_words(new),
            effect=effect,
            needs_restart=needs_restart,
            tenant=_named(path, "tenant"),
            site=site[1] if site is not None else "",
        )


def _ike_in_both(before: Appliance, after: Appliance) -> dict[SiteKey, IkeIdentity]:
    """The identity and the files of each site that has the same in both."""
    old, new = (
        {(tenant.name, site.name): site.ike for tenant in appliance.network.tenants for site in tenant.sites}
        for appliance in (before, after)
    )
    return {site: ike for site, ike in new.items() if old.get(site) == ike}


def _with_more(
    found: Sequence[Difference], more_of: Mapping[str, Iterable[Difference]]
) -> Iterator[Difference]:
    """What has been found, and behind the last of each tenant what differs besides; at the end, of others."""
    last = {each.tenant: number for number, each in enumerate(found)}
    for number, each in enumerate(found):
        yield each
        if number == last[each.tenant]:
            yield from more_of.get(each.tenant, ())
    for tenant, more in more_of.items():
        if tenant not in last:
            yield from more


def _unwritten(
    old: PeerPolicy, new: PeerPolicy, ike: IkeIdentity | None, *, is_told: bool
) -> Iterator[Difference]:
    """What differs for a site without a key of its own that does: its files' content, and what follows."""
    tenant, site = old.site
    path = f"tenant[{tenant}].site[{site}]"
    effect = consequences.of_new_terms(new)

    def told(where: str, before: str | None, after: str) -> Difference:
        return Difference(
            path=where,
            change=Turn.CHANGED,
            old=before,
            new=after,
            effect=effect,
            tenant=tenant,
            site=site,
        )

    if ike is not None:
        for field in Credentials.__struct_fields__:
            if getattr(old.credentials, field) != getattr(new.credentials, field):
                key = _CREDENTIAL_KEYS[field]
                named = in_words(getattr(ike, key))
                words = f"the secret in {named} has changed" if key == "psk_file" else f"{named} has changed"
                yield told(f"{path}.ike.{key}", None, words)
                is_told = True
    if not is_told and old.children != new.children:
        yield told(path, _carried(old), _carried(new))


def _carried(policy: PeerPolicy) -> str:
    return "; ".join(str(child.selectors) for child in policy.children) or "nothing"


def _is_listed(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and type(value[0]) in _LISTED


def _by_path(path: str, values: object) -> dict[str, object]:
    """What is listed, by its path; what has a name that was there before has a number besides."""
    found: dict[str, object] = {}
    if not isinstance(values, Sequence):
        return found
    for value in values:
        table, name = _LISTED[type(value)]
        at = f"{path}.{table(value)}" if path else table(value)
        unique, count = f"{at}[{name(value)}]", 1
        while unique in found:
            count += 1
            unique = f"{at}[{name(value)}#{count}]"
        found[unique] = value
    return found


def _order(paths: Iterable[str], where: str) -> str:
    return ", ".join(path.removeprefix(where).strip("[]") for path in paths)


def _named(path: str, table: str) -> str:
    """The name in a path of whatever it begins with."""
    if not path.startswith(f"{table}["):
        return ""
    return path[len(table) + 1 :].partition("]")[0]
