"""The metrics by name: what each is, and what tells its series apart."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What OpenMetrics calls a metric's type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Family(msgspec.Struct, frozen=True):
    """One metric, with the same labels for each of its series."""

    name: str
    """As it is queried: a counter ends with _total, an info with _info."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


_SITE = ("tenant", "site")
_SUBNET = ("tenant", "subnet")


FAMILIES: dict[str, Family] = {}
"""All of them, by name."""


def _family(name: str, kind: Kind, words: str, labels: tuple[str, ...]) -> Family:
    family = FAMILIES[name] = Family(name, kind, words, labels)
    return family


def _counter(name: str, words: str, *labels: str) -> Family:
    return _family(f"isthmus_{name}_total", Kind.COUNTER, words, labels)


def _gauge(name: str, words: str, *labels: str) -> Family:
    return _family(f"isthmus_{name}", Kind.GAUGE, words, labels)


def _histogram(name: str, words: str, *labels: str) -> Family:
    return _family(f"isthmus_{name}", Kind.HISTOGRAM, words, labels)


def _info(name: str, words: str, *labels: str) -> Family:
    return _family(f"isthmus_{name}_info", Kind.INFO, words, labels)


BUILD = _info("build", "Which release of Isthmus, on which Python", "version", "python")
ENGINE = _info("engine", "What decides packets; there is none where nothing is carried", "engine")
STARTED = _gauge("start_time_seconds", "When the appliance started, in seconds since 1970")
LAG = _gauge("loop_lag_seconds", "How late an event loop got to what was due: the most in a minute", "loop")
MEAN_LAG = _gauge("loop_lag_mean_seconds", "The same, the mean over a minute", "loop")
EXPIRY = _gauge("certificate_expiry_seconds", "When a certificate ends, in seconds since 1970", "use", *_SITE)
TAKEN = _gauge("configuration_taken_time_seconds", "Since when the configuration runs, in seconds since 1970")
UNCONFIRMED = _gauge("configuration_unconfirmed", "Whether it is undone unless somebody confirms it: 1 or 0")
DIFFERS = _gauge("configuration_differs", "Whether its file is known to hold something else: 1 or 0")
RELOADS = _counter("configuration_reloads", "Reloads: taken, refused or rolled-back", "outcome")
RECORDS = _gauge("records", "Records by which packets are forwarded here")

DROPS = _counter("drops", "Packets dropped, each under one reason: see docs/drops.md", "reason", "tenant")
SUBNET_SENT_PACKETS = _counter("subnet_sent_packets", "Packets that came from a virtual subnet", *_SUBNET)
SUBNET_SENT_BYTES = _counter("subnet_sent_bytes", "Octets of them", *_SUBNET)
SUBNET_RECEIVED_PACKETS = _counter("subnet_received_packets", "Packets that went to it", *_SUBNET)
SUBNET_RECEIVED_BYTES = _counter("subnet_received_bytes", "Octets of them", *_SUBNET)
SUBNET_TOO_BIG = _counter("subnet_too_big", "Packets to it that were dropped for their size", *_SUBNET)

SITE_UP = _gauge("site_up", "Whether packets can be sent to a site that this node dials: 1 or 0", *_SITE)
SITE_SINCE = _gauge("site_change_time_seconds", "When that changed last, in seconds since 1970", *_SITE)
SITE_DOWNS = _counter("site_downs", "How often it has gone down", *_SITE)
SITE_MTU = _gauge("site_mtu_bytes", "The largest packet that goes through its tunnel; 0 while down", *_SITE)
SITE_SENT_PACKETS = _counter("site_sent_packets", "Packets that came from a site", *_SITE)
SITE_SENT_BYTES = _counter("site_sent_bytes", "Octets of them", *_SITE)
SITE_RECEIVED_PACKETS = _counter("site_received_packets", "Packets that went to it", *_SITE)
SITE_RECEIVED_BYTES = _counter("site_received_bytes", "Octets of them", *_SITE)
SITE_TOO_BIG = _counter("site_too_big", "Packets to it that were dropped for their size", *_SITE)
REKEYS = _counter("site_rekeys", "How often its IKE SA or a child SA was replaced", *_SITE, "what")
FAILURES = _counter("handshake_failures", "Attempts that came to nothing, by why", *_SITE, "cause")
ESP_DROPS = _counter(
    "esp_drops", "ESP packets that came to nothing; without a site where none is known", "reason", *_SITE
)
IKE_DROPS = _counter("ike_drops", "IKE messages that came to nothing", "reason")
KEEPALIVES = _counter("tunnel_keepalives", "NAT keepalives received")
UNSENT = _counter("tunnel_unsent", "Packets to peers that the kernel refused to send", "error")

ELSEWHERE = _counter(
    "sources_elsewhere", "Packets of VMs from another host than their record names, and forwarded", "tenant"
)
HELD = _gauge("held_frames", "Frames that wait for a VM's port now")
REDIRECTED_RECORDS = _gauge("redirected_records", "Records whose packets are sent on to a new host now")
REDIRECTED = _counter("redirected_packets", "Packets that were sent on to a VM's new host")
AHEAD = _gauge("ports_ahead_of_records", "VMs that are here before their record says so")
NOTICES = _counter("icmp_notices", "ICMP errors to customers: sent, suppressed or without a source", "what")
KERNEL_DROPS = _counter("kernel_drops", "Packets that came while a socket's buffer was full", "side")
NETWORK_ERRORS = _counter("icmp_errors", "Errors that the network reported of packets sent", "side")
MERGED = _counter("underlay_merged", "Packets that the interface had merged, and that were cut again")
REWRITTEN = _counter("rewritten_received_packets", "Packets that came to addresses of this node's pools")
REWRITTEN_MERGED = _counter(
    "rewritten_merged", "Those that the interface had merged, and that were cut again"
)
WAITING = _gauge("waiting_packets", "Packets that wait for a provider address now")
NEIGHBOURS = _counter("pool_neighbours", "What was said on the link about addresses held here", "what")
UNREADABLE = _counter("ports_unreadable", "Frames of VMs that the kernel could not hand over")
FAST_INTERFACE = _info(
    "fastpath_interface",
    "Where the fast path is attached: native in the driver, or generic",
    "interface",
    "mode",
)
FAST_RECORDS = _gauge("fastpath_records", "Records that it finds; the others' packets are Python's")
FAST_CAPACITY = _gauge("fastpath_capacity", "How many it could find")
FAST_WITHOUT_PLACE = _gauge("fastpath_records_without_place", "Records that found no place in it")
FAST_TENANTS = _gauge("fastpath_tenants", "Tenants: carried by it, or left to Python altogether", "by")
FAST_UNRESOLVED = _gauge("fastpath_unresolved_hops", "Hosts' provider addresses that it knows no next hop to")
FAST_RESYNCS = _counter(
    "fastpath_resyncs",
    "How often the kernel's news of routes and neighbours were lost, so that next hops were asked for anew",
)
FAST_CARRIED = _counter(
    "fastpath_carried_packets", "Packets that it sent on; they are among the subnets', too"
)
FAST_PASSED = _counter(
    "fastpath_passed_packets", "Packets that it handed to Python: see docs/fastpath.md", "reason"
)
BRIDGE_UP = _gauge("bridge_up", "Whether the Open vSwitch bridge does what it is asked: 1 or 0")
BRIDGE_FLOWS = _gauge("bridge_flows", "Flows of ours on it")

SYNCED = _gauge("lookup_synced", "Whether this node has been told everything since its start: 1 or 0")
STALE = _gauge("lookup_stale_seconds", "For how long the store, or whoever is followed, has been away")
REVISION = _gauge("lookup_revision", "The store's revision that this node is at")
LOOKUP_RECORDS = _gauge("lookup_records", "Records that this node knows", "tenant")
WATCHES = _gauge("lookup_watches", "Watches that are open here")
POOL_ADDRESSES = _gauge("pool_addresses", "Addresses of a pool: held, quarantined or free", "pool", "state")
POOL = _info("pool", "Whose a pool is: a gateway's, or that of each host that shares it", "pool", "node")
LEASES = _gauge(
    "leases",
    "Leases of a gateway's pools that a tenant holds, but for the gateway's own addresses",
    "tenant",
    "node",
)
LEASE_LIMIT = _gauge("lease_limit", "How many a tenant may hold at each gateway", "tenant")
FOLLOWERS = _gauge("lookup_followers", "Hosts and gateways that follow this node", "role")
BEHIND = _gauge("lookup_behind_seconds", "For how long the slowest follower has not acknowledged a change")
MOVES = _counter("lookup_moves", "Records that claims at this node have moved", "mode")
ALERTS = _counter("lookup_alerts", "Alerts", "kind")
CONVERGENCE = _histogram("lookup_convergence_seconds", "From a move's claim until all have learned")
WRITES = _histogram("lookup_write_seconds", "How long the store took to write")
FAILED_WRITES = _counter("lookup_failed_writes", "Writes for which the store was away")
REQUESTS = _counter("http_requests", "Answers by HTTP", "listener", "method", "path", "status")
LOOKUP_REQUESTS = _histogram("lookup_request_seconds", "Answers at [lookup]'s listener", "method", "path")
API_REQUESTS = _histogram("api_request_seconds", "Answers at [api]'s listener", "method", "path")
STRANGERS = _counter("http_strangers", "Requests with a credential that is not known", "listener")
REFUSED = _counter(
    "http_refused_connections",
    "Connections refused: all taken, or too many of one address",
    "listener",
    "why",
)
