from __future__ import annotations

import asyncio
import ssl
import tracemalloc
from asyncio.sslproto import SSLProtocol
from pathlib import Path

import aiohttp
import pytest

from gateway.http.tls import renewing_context
from gateway.lab.certificates import CertificateAuthority
from policies.errors import ConfigurationError
from policies.services import Credential, LookupSettings, Role, ServerTls
from tests.gateway.lookup.serving import Serving, lookup_node

TOKEN = "0123456789abcdef" * 2


class Files:
    """What a lookup node and its clients have in files."""

    def __init__(self, folder: Path) -> None:
        self.authority = CertificateAuthority(folder)
        self.server = self.authority.issue("node", ["127.0.0.1"])
        self.token = folder / "op.token"
        self.token.write_text(TOKEN)
        self.settings = LookupSettings(
            listen="127.0.0.1:0",
            tls=ServerTls(*self.server, self.authority.file),
            credentials=(
                Credential("op", Role.OPERATOR, token_file=self.token),
                Credential("hv1", Role.HOST, subject="hv1.example"),
                Credential("hv2", Role.HOST, subject="hv2"),
            ),
        )

    def client(self, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.file)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return context


def another(folder: Path) -> CertificateAuthority:
    """An authority that nobody is told of."""
    (folder / "another").mkdir()
    return CertificateAuthority(folder / "another")


async def status(node: Serving, context: ssl.SSLContext, token: str | None = None) -> int:
    """Ask for hints on behalf of hv1, and return how that is answered."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    hint = {"host": "hv1", "vsid": 5001, "ca": "10.0.1.5", "forget": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"https://127.0.0.1:{node.port}/v1/hints", json=hint, headers=headers, ssl=context
        ) as response,
    ):
        return response.status


def test_certificate_of_the_authority_is_who_it_names_and_others_have_tokens(tmp_path: Path) -> None:
    files = Files(tmp_path)
    first, second, unknown = (files.authority.issue(name) for name in ("hv1.example", "hv2", "hv9"))

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            assert await status(node, files.client(first)) == 202
            # Known, and forgets for another.
            assert await status(node, files.client(second)) == 403
            assert await status(node, files.client(unknown)) == 401
            assert await status(node, files.client()) == 401
            assert await status(node, files.client(), TOKEN) == 202
            assert await status(node, files.client(first), "wrong" * 5) == 401

    asyncio.run(main())


def test_certificate_of_another_authority_is_refused_in_the_handshake(tmp_path: Path) -> None:
    files = Files(tmp_path)
    stranger = another(tmp_path).issue("hv1.example")

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await status(node, files.client(stranger), TOKEN)

    asyncio.run(main())


def test_node_is_not_believed_by_another_authoritys_clients(tmp_path: Path) -> None:
    files = Files(tmp_path)
    other = another(tmp_path)

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await status(node, ssl.create_default_context(cafile=other.file), TOKEN)

    asyncio.run(main())


def test_old_tls_is_refused(tmp_path: Path) -> None:
    files = Files(tmp_path)
    context = files.client()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            with pytest.raises(aiohttp.ClientConnectorError):
                await status(node, context, TOKEN)

    asyncio.run(main())


def test_with_tls_any_host_name_is_taken(tmp_path: Path) -> None:
    files = Files(tmp_path)

    async def main() -> None:
        async with lookup_node(files.settings) as node, aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{node.port}/healthz"
            headers = {"Host": "lookup.example"}
            async with session.get(url, ssl=files.client(), headers=headers) as response:
                assert response.status == 200

    asyncio.run(main())


def test_whoever_speaks_no_tls_gets_nothing_and_the_service_goes_on(tmp_path: Path) -> None:
    files = Files(tmp_path)

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = await reader.read()
            assert b"HTTP" not in said
            writer.close()
            assert await status(node, files.client(), TOKEN) == 202

    asyncio.run(main())


@pytest.mark.parametrize("broken", ["missing", "empty", "another key"])
def test_file_that_is_not_what_it_should_be_is_named(tmp_path: Path, broken: str) -> None:
    files = Files(tmp_path)
    certificate, key = files.server
    if broken == "missing":
        certificate.unlink()
    elif broken == "empty":
        certificate.write_text("")
    else:
        key = files.authority.issue("other")[1]

    with pytest.raises(ConfigurationError, match=r"node"):
        renewing_context(ServerTls(certificate, key), "lookup.tls")


def test_renewed_certificate_is_shown_from_the_next_connection_on(tmp_path: Path) -> None:
    files = Files(tmp_path)
    certificate, key = files.server

    async def serial(node: Serving) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=files.client())
        shown = writer.get_extra_info("peercert")
        writer.close()
        return str(shown["serialNumber"])

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            first = await serial(node)
            assert await serial(node) == first
            kept = key.read_bytes()
            files.authority.issue("node", ["127.0.0.1"])
            renewed = key.read_bytes()
            key.write_bytes(kept)
            assert await serial(node) == first
            key.write_bytes(renewed)
            assert await serial(node) != first
            certificate.unlink()
            assert await serial(node) != first

    asyncio.run(main())


def test_idle_connection_costs_no_large_buffer(tmp_path: Path) -> None:
    files = Files(tmp_path)

    async def main() -> None:
        async with lookup_node(files.settings) as node:
            context = files.client()
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
            tracemalloc.start()
            try:
                others = [
                    await asyncio.open_connection("127.0.0.1", node.port, ssl=context) for _ in range(10)
                ]
                octets, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # Both ends are here, and theirs is asyncio's own.
            assert octets / len(others) - SSLProtocol.max_size < 100_000
            for _, each in ((reader, writer), *others):
                each.close()
                await each.wait_closed()

    asyncio.run(main())
