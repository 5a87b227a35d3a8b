"""What the configuration says of the sites that this gateway dials, made ready for the key exchange."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping

from policies.addresses import Prefix, is_within
from policies.errors import ConfigurationError, Problem
from policies.ipsec import SelectorMode
from policies.model import Appliance, IkeIdentity, Site, SiteHop, Tenant
from policies.selectors import Selectors, TrafficSelector
from tunnels.effects import SiteKey
from tunnels.ike import credentials
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity
from tunnels.ike.policy import ChildPolicy, PeerPolicy

_EVERYTHING: dict[int, Prefix] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("::/0")}


class Keyring:
    """What has been read of sites' files. Each is read once: what is in it later is for another keyring.

    So a reload takes changed secrets and a change of the network does not, and who goes back to an earlier
    keyring has the earlier secrets.
    """

    def __init__(self) -> None:
        self._held: dict[IkeIdentity, Credentials] = {}

    def credentials(self, ike: IkeIdentity) -> Credentials:
        """Return what a site's files hold. Raises ConfigurationError, and then reads them again next time."""
        if ike not in self._held:
            self._held[ike] = credentials.load(ike)
        return self._held[ike]


def peer_policies(appliance: Appliance, keyring: Keyring | None = None) -> tuple[PeerPolicy, ...]:
    """What the peers of the sites are held to whose gateway this appliance is, with their credentials.

    Raises ConfigurationError with everything that is wrong with their files.
    """
    policies, problems = readable_policies(appliance, {}, keyring)
    if problems:
        raise ConfigurationError(problems)
    return policies


def readable_policies(
    appliance: Appliance, known: Mapping[SiteKey, PeerPolicy], keyring: Keyring | None = None
) -> tuple[tuple[PeerPolicy, ...], tuple[Problem, ...]]:
    """The same where a file that cannot be read concerns its site alone: that stays as it is `known`.

    Also returns what is wrong with the files.
    """
    if not appliance.gateway:
        return (), ()
    keyring = keyring or Keyring()
    problems: list[Problem] = []
    policies: list[PeerPolicy] = []
    for tenant in appliance.network.tenants:
        for site in tenant.sites:
            if site.gateway != appliance.name:
                continue
            try:
                policies.append(_policy(appliance, tenant, site, keyring))
            except ConfigurationError as error:
                problems.extend(error.problems)
                if (tenant.name, site.name) in known:
                    policies.append(known[tenant.name, site.name])
    return tuple(policies), tuple(problems)


def secrets_shared(policies: Iterable[PeerPolicy]) -> Iterator[str]:
    """Say which sites of different tenants have one secret: the peer of one could pose as the other's."""
    holders: dict[bytes, list[SiteKey]] = {}
    for policy in policies:
        if policy.credentials.psk is not None:
            holders.setdefault(policy.credentials.psk, []).append(policy.site)
    for sites in holders.values():
        if len({tenant for tenant, _ in sites}) > 1:
            named = ", ".join(f"{tenant}/{site}" for tenant, site in sites)
            yield f"one secret for sites of different tenants, whose peers can pose as each other: {named}"


def children(tenant: Tenant, site: Site) -> tuple[ChildPolicy, ...]:
    """The child SAs that a site shall have, of each family that both sides have; see SelectorMode."""
    local = site.local_prefixes or tuple(prefix for subnet in tenant.subnets for prefix in subnet.prefixes)
    remote = _remote_prefixes(tenant, site)
    families = {prefix.version for prefix in local} & {prefix.version for prefix in remote}
    match site.selectors:
        case SelectorMode.ANY:
            if not remote:
                families = {prefix.version for prefix in local} or {4}
            every = tuple(TrafficSelector.of(_EVERYTHING[version]) for version in sorted(families))
            return (ChildPolicy("any", Selectors(every, every)),)
        case SelectorMode.PAIRS:
            return tuple(
                ChildPolicy(f"{ours} to {theirs}", Selectors(_selectors((ours,)), _selectors((theirs,))))
                for ours in local
                for theirs in remote
                if ours.version == theirs.version
            )
        case SelectorMode.ALL:
            ours = _selectors(prefix for prefix in local if prefix.version in families)
            theirs = _selectors(prefix for prefix in remote if prefix.version in families)
            return (ChildPolicy("all", Selectors(ours, theirs)),) if families else ()


def _policy(appliance: Appliance, tenant: Tenant, site: Site, keyring: Keyring) -> PeerPolicy:
    path = f"tenant[{tenant.name}].site[{site.name}].ike"
    problems: list[Problem] = []
    identities: list[Identity] = []
    for key, written in (("local_id", site.ike.local_id), ("remote_id", site.ike.remote_id)):
        try:
            identities.append(Identity.parse(written))
        except ValueError as error:
            problems.append(Problem(f"{path}.{key}", str(error)))
    try:
        loaded = keyring.credentials(site.ike)
    except ConfigurationError as error:
        problems += (_at_its_key(each, path, site.ike) for each in error.problems)
        raise ConfigurationError(problems) from error
    if problems:
        raise ConfigurationError(problems)
    local_id, remote_id = identities
    return PeerPolicy(
        site=(tenant.name, site.name),
        start=site.start,
        local_addresses=appliance.site_addresses,
        remote_address=site.peer,
        local_id=local_id,
        remote_id=remote_id,
        credentials=loaded,
        ike_proposals=site.ike_proposals,
        esp_proposals=site.esp_proposals,
        children=children(tenant, site),
        lifetimes=site.lifetimes,
        liveness=site.liveness,
        force_udp=site.force_udp,
    )


def _at_its_key(problem: Problem, path: str, ike: IkeIdentity) -> Problem:
    """A problem that stands at a file, at the key that names the file."""
    keys = {
        str(ike.psk_file): "psk_file",
        str(ike.certificate_file): "certificate_file",
        str(ike.key_file): "key_file",
        **{str(file): "authority_files" for file in ike.authority_files},
        **{str(file): "revocation_files" for file in ike.revocation_files},
    }
    if problem.path not in keys:
        return Problem(path, f"{problem.path} {problem.message}".lstrip())
    return Problem(f"{path}.{keys[problem.path]}", f"{problem.path} {problem.message}")


def _remote_prefixes(tenant: Tenant, site: Site) -> tuple[Prefix, ...]:
    """The site's prefixes, and what else is routed there, such as single addresses that have moved."""
    routed = (
        route.prefix
        for route in tenant.routes
        if route.next_hop == SiteHop(site.name)
        and not any(is_within(route.prefix, prefix) for prefix in site.prefixes)
    )
    return (*site.prefixes, *routed)


def _selectors(prefixes: Iterable[Prefix]) -> tuple[TrafficSelector, ...]:
    return tuple(map(TrafficSelector.of, prefixes))
