"""The client and a lookup node prove to each other who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.lookup.client import LookupClient
from gateway.lookup.outcomes import Forbidden
from gateway.lookup.store import StoreUnavailable
from policies.services import Credential, LookupAccess, LookupSettings, Role, ServerTls
from tests.gateway.lookup.serving import Serving, lookup_node
from tests.interop.authority import Authority

AUTHORITY = Authority("lookup authority")
STRANGER = Authority("somebody else")


def write(directory: Path, name: str, content: bytes) -> Path:
    """Write a file as one is renewed: whole, at once."""
    part = directory / f"{name}.part"
    part.write_bytes(content)
    part.replace(directory / name)
    return directory / name


def give(directory: Path, name: str, authority: Authority) -> None:
    """Certify somebody, for both sides of TLS."""
    usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    issued = authority.issue(name, addresses=("127.0.0.1",), usages=usages)
    write(directory, f"{name}.pem", issued.chain)
    write(directory, f"{name}.key", issued.key)


def served(directory: Path, body: Callable[[Serving, LookupAccess], Awaitable[None]]) -> None:
    """Run a body with a node that knows the certificate of hv1, and hv1's access to it."""
    ca = write(directory, "ca.pem", AUTHORITY.pem)
    give(directory, "node", AUTHORITY)
    give(directory, "hv1", AUTHORITY)
    settings = LookupSettings(
        listen="127.0.0.1:0",
        tls=ServerTls(directory / "node.pem", directory / "node.key", ca),
        credentials=(Credential("hv1", Role.HOST, subject="hv1"),),
    )

    async def main() -> None:
        async with lookup_node(settings) as node:
            url = f"https://127.0.0.1:{node.port}"
            await body(node, LookupAccess((url,), None, ca, directory / "hv1.pem", directory / "hv1.key"))

    asyncio.run(main())


def test_a_host_is_known_by_its_certificate(tmp_path: Path) -> None:
    async def body(node: Serving, access: LookupAccess) -> None:
        async with LookupClient(access) as client:
            assert [tenant.name for tenant in (await client.network()).tenants] == ["red"]

    served(tmp_path, body)


def test_a_node_of_another_authority_is_not_believed(tmp_path: Path) -> None:
    async def body(node: Serving, access: LookupAccess) -> None:
        write(tmp_path, "ca.pem", STRANGER.pem)
        async with LookupClient(access) as client:
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                await client.status()

    served(tmp_path, body)


def test_a_node_of_another_name_is_not_believed(tmp_path: Path) -> None:
    async def body(node: Serving, access: LookupAccess) -> None:
        elsewhere = LookupAccess((f"https://localhost:{node.port}",), None, access.authority_file)
        async with LookupClient(elsewhere) as client:
            with pytest.raises(StoreUnavailable, match=r"certificate verify failed|Hostname mismatch"):
                await client.status()

    served(tmp_path, body)


def test_whoever_shows_nothing_is_told_to(tmp_path: Path) -> None:
    async def body(node: Serving, access: LookupAccess) -> None:
        async with LookupClient(LookupAccess(access.nodes, None, access.authority_file)) as client:
            with pytest.raises(Forbidden):
                await client.status()

    served(tmp_path, body)


def test_a_renewed_certificate_is_shown_from_then_on(tmp_path: Path) -> None:
    async def body(node: Serving, access: LookupAccess) -> None:
        known = (tmp_path / "hv1.pem").read_bytes(), (tmp_path / "hv1.key").read_bytes()
        give(tmp_path, "hv9", AUTHORITY)
        (tmp_path / "hv9.pem").replace(tmp_path / "hv1.pem")
        (tmp_path / "hv9.key").replace(tmp_path / "hv1.key")
        async with LookupClient(access) as client:
            with pytest.raises(Forbidden):
                await client.status()
            write(tmp_path, "hv1.pem", known[0])
            with pytest.raises(Forbidden):  # half a renewal is none
                await client.status()
            write(tmp_path, "hv1.key", known[1])
            assert (await client.status())["synced"]

    served(tmp_path, body)
