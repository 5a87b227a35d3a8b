"""Checks of the files that prove who is who: there, not empty, and those with secrets ours alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from policies.config.node_tables import File
from policies.config.service_tables import ServiceTable
from policies.config.site_tables import IkeTable
from policies.errors import Problem


def secret_file_problems(file: File) -> Iterator[Problem]:
    """What is wrong with the credentials' files that this node has to read."""
    for tenant in file.tenants:
        for site in tenant.sites:
            ours = file.own_gateway is not None and site.gateway == file.own_gateway
            if ours and site.ike is not None:
                yield from _site_problems(site.ike)
    for role in (file.gateway, file.host):
        if role is not None:
            yield from _named_files(role.path, role.asking.files)
    if file.lookup is not None:
        yield from _service_problems(file.lookup)
        if file.lookup.etcd is not None:
            etcd = file.lookup.etcd
            yield from _named_files(etcd.path, {"ca": etcd.ca, "cert": etcd.cert, "key": etcd.key})
    if file.api is not None:
        yield from _service_problems(file.api)


def _service_problems(service: ServiceTable) -> Iterator[Problem]:
    if service.tls is not None:
        tls = service.tls
        files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
        yield from _named_files(tls.path, files)
    for token in service.tokens:
        yield from _named_files(token.path, {"token_file": token.token_file})


def _named_files(path: str, files: Mapping[str, Path | None]) -> Iterator[Problem]:
    for key, file in files.items():
        if file is not None:
            check = _secret_problems if key in ("token_file", "key") else _trusted_problems
            yield from check(f"{path}.{key}", file)


def _site_problems(ike: IkeTable) -> Iterator[Problem]:
    for key, secret in (("psk_file", ike.psk_file), ("key_file", ike.key_file)):
        if secret is not None:
            yield from _secret_problems(f"{ike.path}.{key}", secret)
    certificates = () if ike.certificate_file is None else (ike.certificate_file,)
    for key, files in (
        ("certificate_file", certificates),
        ("authority_files", ike.authority_files),
        ("revocation_files", ike.revocation_files),
    ):
        for index, file in enumerate(files):
            item = f"[#{index + 1}]" if len(files) > 1 else ""
            yield from _trusted_problems(f"{ike.path}.{key}{item}", file)


def _secret_problems(path: str, file: Path) -> Iterator[Problem]:
    """What nobody else may read."""
    return _file_problems(path, file, 0o077, "lets others read it; chmod 600", "put the secret in it")


def _trusted_problems(path: str, file: Path) -> Iterator[Problem]:
    """What everybody may read, and nobody else may write: it says whom to trust."""
    return _file_problems(path, file, 0o022, "lets others write it; chmod 644", "put PEM in it")


def _file_problems(path: str, file: Path, forbidden: int, why: str, content: str) -> Iterator[Problem]:
    """What is wrong with a file, of whose mode's bits some are forbidden."""
    try:
        status = file.stat()
    except OSError as error:
        yield Problem(path, f"{file}: {error.strerror or error}")
        return
    if not stat.S_ISREG(status.st_mode):
        yield Problem(path, f"{file} is not a regular file")
        return
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        yield Problem(path, f"mode {mode:04o} {why} {file}")
    if status.st_uid not in (0, os.geteuid()):
        yield Problem(
            path, f"{file} belongs to user {status.st_uid}; give it to root or to the user who runs this"
        )
    if not status.st_size:
        yield Problem(path, f"{file} is empty; {content}")
