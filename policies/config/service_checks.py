"""Checks of the services by HTTP: who may reach them, and who may ask."""

from __future__ import annotations

from collections.abc import Iterator

from policies.config import service_values
from policies.config.network_checks import unknown, used_twice
from policies.config.node_tables import File
from policies.config.service_tables import ApiTable, CredentialTable, ServiceTable
from policies.errors import Problem
from policies.services import ALL_TENANTS, Role


def api_problems(file: File) -> Iterator[Problem]:
    """Everything that is wrong with the operating interface."""
    if file.api is None:
        return
    yield from service_problems(file.api, file)
    yield from not_for_nodes(file.api)
    if file.lookup is not None and file.lookup.listen == file.api.listen:
        message = f'"{file.api.listen}" is that of [lookup] already; without [api] the two share it'
        yield Problem(f"{file.api.path}.listen", message)


def service_problems(service: ServiceTable, file: File) -> Iterator[Problem]:
    """Everything that is wrong with who may reach a service and who may ask it."""
    yield from off_loopback(service)
    yield from certificates_without_authority(service)
    yield from credentials_used_twice(service)
    for credential in service.credentials:
        yield from credential_problems(credential, file)


def not_for_nodes(api: ApiTable) -> Iterator[Problem]:
    """A host or a gateway, which have nothing to ask of the operating interface."""
    for credential in api.credentials:
        if credential.role in (Role.HOST, Role.GATEWAY):
            message = f'"{credential.role}" is for the lookup service; use "reader" or "operator" here'
            yield Problem(f"{credential.path}.role", message)


def off_loopback(service: ServiceTable) -> Iterator[Problem]:
    """A service that others reach, in the clear or open to everybody."""
    if service_values.is_on_loopback(service.listen.rpartition(":")[0]):
        return
    lacking = []
    if service.tls is None and "tls" not in service.unsound:
        lacking.append(f"[{service.path}.tls]")
    if not service.credentials and not service.unsound & {"token", "certificate"}:
        lacking.append(f"at least one [[{service.path}.token]] or [[{service.path}.certificate]]")
    if lacking:
        right = f'write {" and ".join(lacking)}, or use "127.0.0.1:PORT" or "[::1]:PORT"'
        message = f'"{service.listen}" is not on loopback, which needs TLS and authentication; {right}'
        yield Problem(f"{service.path}.listen", message)


def certificates_without_authority(service: ServiceTable) -> Iterator[Problem]:
    """Clients' certificates that nobody vouches for."""
    if not service.certificates or "tls" in service.unsound:
        return
    if service.tls is None:
        message = f"is shown in TLS only; write [{service.path}.tls] with cert, key and client_ca"
        yield Problem(service.certificates[0].path, message)
    elif service.tls.client_ca is None and "client_ca" not in service.tls.unsound:
        needing = f"[[{service.path}.certificate]]"
        message = f"is missing, and {needing} needs it: the authority of the clients' certificates"
        yield Problem(f"{service.tls.path}.client_ca", message)


def credentials_used_twice(service: ServiceTable) -> Iterator[Problem]:
    """A name, a token or a certificate that could be two."""
    names = ((credential.path, credential.name) for credential in service.credentials)
    for path, name, first in used_twice(names):
        yield Problem(f"{path}.name", f'"{name}" is the name of {first} already; give each its own')
    subjects = ((credential.path, credential.subject) for credential in service.certificates)
    for path, subject, first in used_twice(subjects):
        yield Problem(f"{path}.subject", f'"{subject}" is that of {first} already; give each its own')
    tokens = ((credential.path, credential.token_file) for credential in service.tokens)
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
            if file.tenants and name != ALL_TENANTS:
                yield from unknown(f"{credential.path}.tenants{item}", "tenant", name, file.tenant_names)
        return
    if credential.tenants:
        message = f'are for readers only; leave them out, for a credential with role = "{credential.role}"'
        yield Problem(f"{credential.path}.tenants", message)
    if credential.role is Role.HOST and file.hosts:
        yield from unknown(f"{credential.path}.name", "host", credential.name, file.host_names)
    if credential.role is Role.GATEWAY and file.gateway_addresses and not file.is_network_elsewhere:
        yield from unknown(f"{credential.path}.name", "gateway", credential.name, file.gateway_addresses)
