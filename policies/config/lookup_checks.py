"""Checks of the lookup service: what it keeps its records in, and who asks it from here."""

from __future__ import annotations

from collections.abc import Iterator

from policies.config import service_values
from policies.config.lookup_tables import Asking, EtcdTable, LookupTable
from policies.config.node_tables import File
from policies.config.service_checks import service_problems
from policies.errors import Problem
from policies.model import RecordsKept


def lookup_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with serving records and with asking for them."""
    if file.lookup is not None:
        yield from service_problems(file.lookup, file)
        yield from store(file.lookup)
    for role in (file.gateway, file.host):
        if role is not None:
            yield from asking_problems(role.path, role.asking, role.unsound)
    yield from asked_otherwise(file)
    yield from ignored_network(file)
    yield from records_kept(file)
    yield from ignored_openvswitch(file)


def store(lookup: LookupTable) -> Iterator[Problem]:
    """A cluster that is not named, or not used, or not spoken to as its members want."""
    if lookup.unsound & {"store", "etcd"}:
        return
    if lookup.store == "etcd" and lookup.etcd is None:
        yield Problem(
            f"{lookup.path}.store", '"etcd" needs to know where; write [lookup.etcd] with endpoints'
        )
    if lookup.etcd is not None:
        if lookup.store != "etcd":
            message = f'is not used with store = "{lookup.store}"; write store = "etcd", or leave it out'
            yield Problem(lookup.etcd.path, message)
        yield from half_a_certificate(lookup.etcd.path, lookup.etcd, lookup.etcd.unsound)


def asking_problems(path: str, asking: Asking, unsound: frozenset[str]) -> Iterator[Problem]:
    """Credentials for nobody, or nodes that will not answer without one."""
    if not asking.is_given:
        for key in asking.files:
            yield Problem(f"{path}.{key}", "is not used without lookup; write lookup, or leave it out")
        return
    yield from half_a_certificate(path, asking, unsound)
    away = [node for node in asking.lookup if not service_values.is_on_loopback(_host_of(node))]
    credentials = {"token_file", "cert", "key"}
    if away and not credentials & (asking.files.keys() | unsound):
        message = f'"{away[0]}" wants to know who asks; write token_file, or cert and key'
        yield Problem(f"{path}.lookup", message)


def half_a_certificate(path: str, owner: Asking | EtcdTable, unsound: frozenset[str]) -> Iterator[Problem]:
    """A certificate without its key, or the reverse."""
    if unsound & {"cert", "key"} or (owner.cert is None) == (owner.key is None):
        return
    lacking, other = ("key", "cert") if owner.key is None else ("cert", "key")
    yield Problem(f"{path}.{lacking}", f"is missing, and {other} is of no use without it")


def asked_otherwise(file: File) -> Iterator[Problem]:
    """A node that would ask itself, or that asks in two ways: it is one client with one credential."""
    for path, _ in file.asking if "lookup" in file.sections else ():
        message = "is not used beside [lookup], which serves this node too; leave out one of the two"
        yield Problem(f"{path}.lookup", message)
    if len(file.asking) == 2 and file.gateway is not None and file.host is not None:
        sound = not (file.gateway.unsound | file.host.unsound) & {"lookup", "token_file", "ca", "cert", "key"}
        if sound and file.gateway.asking.model() != file.host.asking.model():
            message = (
                "and its credential are unlike [gateway]'s; give both the same, or leave out one of the two"
            )
            yield Problem(f"{file.host.path}.lookup", message)


def ignored_network(file: File) -> Iterator[Problem]:
    """Tables of the network on a node that is told the network by the lookup services."""
    if not file.asking or "lookup" in file.sections:
        return
    path = file.asking[0][0]
    for section in file.network_sections:
        message = f"is not used with {path}.lookup, where the network comes from; leave out one of the two"
        yield Problem(section, message)


def records_kept(file: File) -> Iterator[Problem]:
    """A host that keeps few records although it has them all, or needs them all."""
    if file.host is None or file.host.records is RecordsKept.ALL:
        return
    path = f"{file.host.path}.records"
    if not file.asking:
        yield Problem(path, '"used" is for hosts that ask lookup services; write lookup, or leave it out')
    elif "gateway" in file.sections:
        yield Problem(path, '"used" is not enough for the [gateway] beside it; leave it out')


def ignored_openvswitch(file: File) -> Iterator[Problem]:
    """A bridge that nobody would use."""
    if file.host is None or file.host.openvswitch is None or "driver" in file.host.unsound:
        return
    if file.host.driver != "openvswitch":
        message = (
            f'is not used with driver = "{file.host.driver}"; write driver = "openvswitch", or leave it out'
        )
        yield Problem(file.host.openvswitch.path, message)


def _host_of(url: str) -> str:
    """The address or name in a URL that has been read."""
    host = url.partition("://")[2]
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
