"""Checks of the lookup service: who may ask it, what it keeps its records in, and who asks it from here."""

from __future__ import annotations

from collections.abc import Iterator

from policies.config import values
from policies.config.lookup_tables import Asking, CredentialTable, EtcdTable, LookupTable
from policies.config.network_checks import unknown, used_twice
from policies.config.node_tables import File
from policies.errors import Problem
from policies.model import RecordsKept, Role


def lookup_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with serving records and with asking for them."""
    if file.lookup is not None:
        yield from off_loopback(file.lookup)
        yield from store(file.lookup)
        yield from certificates_without_authority(file.lookup)
        yield from credentials_used_twice(file.lookup)
        for credential in file.lookup.credentials:
            yield from credential_problems(credential, file)
    for role in (file.gateway, file.host):
        if role is not None:
            yield from asking_problems(role.path, role.asking, role.unsound)
    yield from asked_otherwise(file)
    yield from ignored_network(file)
    yield from records_kept(file)
    yield from ignored_openvswitch(file)


def off_loopback(lookup: LookupTable) -> Iterator[Problem]:
    """A service that others reach, in the clear or open to everybody."""
    if values.is_on_loopback(lookup.listen.rpartition(":")[0]):
        return
    lacking = []
    if lookup.tls is None and "tls" not in lookup.unsound:
        lacking.append("[lookup.tls]")
    if not lookup.credentials and not lookup.unsound & {"token", "certificate"}:
        lacking.append("at least one [[lookup.token]] or [[lookup.certificate]]")
    if lacking:
        right = f'write {" and ".join(lacking)}, or use "127.0.0.1:PORT" or "[::1]:PORT"'
        message = f'"{lookup.listen}" is not on loopback, which needs TLS and authentication; {right}'
        yield Problem(f"{lookup.path}.listen", message)


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


def certificates_without_authority(lookup: LookupTable) -> Iterator[Problem]:
    """Clients' certificates that nobody vouches for."""
    if not lookup.certificates or "tls" in lookup.unsound:
        return
    if lookup.tls is None:
        message = "is shown in TLS only; write [lookup.tls] with cert, key and client_ca"
        yield Problem(lookup.certificates[0].path, message)
    elif lookup.tls.client_ca is None and "client_ca" not in lookup.tls.unsound:
        message = (
            "is missing, and [[lookup.certificate]] needs it: the authority of the clients' certificates"
        )
        yield Problem(f"{lookup.tls.path}.client_ca", message)


def credentials_used_twice(lookup: LookupTable) -> Iterator[Problem]:
    """A name, a token or a certificate that could be two."""
    names = ((credential.path, credential.name) for credential in lookup.credentials)
    for path, name, first in used_twice(names):
        yield Problem(f"{path}.name", f'"{name}" is the name of {first} already; give each its own')
    subjects = ((credential.path, credential.subject) for credential in lookup.certificates)
    for path, subject, first in used_twice(subjects):
        yield Problem(f"{path}.subject", f'"{subject}" is that of {first} already; give each its own')
    tokens = ((credential.path, credential.token_file) for credential in lookup.tokens)
    for path, file, first in used_twice(tokens):
        yield Problem(f"{path}.token_file", f"{file} is that of {first} already; give each its own")


def credential_problems(credential: CredentialTable, file: File) -> Iterator[Problem]:
    """A credential of nobody in the network, or a reader of nothing."""
    if credential.role is None:
        return
    if credential.role is Role.READER:
        if not credential.tenants and "tenants" not in credential.unsound:
            yield Problem(
                f"{credential.path}.tenants", "is missing; name the tenants that the reader may see"
            )
        for index, name in enumerate(credential.tenants):
            item = f"[#{index + 1}]" if len(credential.tenants) > 1 else ""
            if file.tenants:
                yield from unknown(f"{credential.path}.tenants{item}", "tenant", name, file.tenant_names)
        return
    if credential.tenants:
        message = f'are for readers only; leave them out, for a credential with role = "{credential.role}"'
        yield Problem(f"{credential.path}.tenants", message)
    if credential.role is Role.HOST and file.hosts:
        yield from unknown(f"{credential.path}.name", "host", credential.name, file.host_names)
    if credential.role is Role.GATEWAY and file.gateway_addresses and not file.is_network_elsewhere:
        yield from unknown(f"{credential.path}.name", "gateway", credential.name, file.gateway_addresses)


def asking_problems(path: str, asking: Asking, unsound: frozenset[str]) -> Iterator[Problem]:
    """Credentials for nobody, or nodes that will not answer without one."""
    if not asking.is_given:
        for key in asking.files:
            yield Problem(f"{path}.{key}", "is not used without lookup; write lookup, or leave it out")
        return
    yield from half_a_certificate(path, asking, unsound)
    away = [node for node in asking.lookup if not values.is_on_loopback(_host_of(node))]
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
