"""Checks of the files that prove who is who: there, not empty, and those with secrets ours alone."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from policies.config.node_tables import File
from policies.config.service_tables import ServiceTable
from policies.config.site_tables import IkeTable
from policies.errors import Problem


class _Named(NamedTuple):
    """A file that a key names."""

    path: str
    file: Path
    is_secret: bool = False


class _Runner(NamedTuple):
    """Whoever is to read the files: who runs this, or who root becomes for that."""

    uid: int
    name: str


def secret_file_problems(file: File) -> Iterator[Problem]:
    """What is wrong with the credentials' files that this node has to read."""
    runner = _runner(file)
    for named in _files(file):
        yield from _problems(named, runner)


def _runner(file: File) -> _Runner:
    uid = os.geteuid()
    user = file.appliance.user if file.appliance is not None else None
    # A user who is not there is missed where root is to become them.
    with suppress(KeyError):
        entry = pwd.getpwnam(user) if user is not None and uid == 0 else pwd.getpwuid(uid)
        return _Runner(entry.pw_uid, entry.pw_name)
    return _Runner(uid, f"user {uid}")


def _files(file: File) -> Iterator[_Named]:
    for tenant in file.tenants:
        for site in tenant.sites:
            ours = file.own_gateway is not None and site.gateway == file.own_gateway
            if ours and site.ike is not None:
                yield from _of_site(site.ike)
    for role in (file.gateway, file.host):
        if role is not None:
            yield from _of_keys(role.path, role.asking.files)
    if file.lookup is not None:
        yield from _of_service(file.lookup)
        if file.lookup.etcd is not None:
            etcd = file.lookup.etcd
            yield from _of_keys(etcd.path, {"ca": etcd.ca, "cert": etcd.cert, "key": etcd.key})
    if file.api is not None:
        yield from _of_service(file.api)


def _of_service(service: ServiceTable) -> Iterator[_Named]:
    if service.tls is not None:
        tls = service.tls
        files = {"cert": tls.cert, "key": tls.key, "client_ca": tls.client_ca}
        yield from _of_keys(tls.path, files)
    for token in service.tokens:
        yield from _of_keys(token.path, {"token_file": token.token_file})


def _of_keys(path: str, files: Mapping[str, Path | None]) -> Iterator[_Named]:
    for key, file in files.items():
        if file is not None:
            yield _Named(f"{path}.{key}", file, key in ("token_file", "key"))


def _of_site(ike: IkeTable) -> Iterator[_Named]:
    for key, secret in (("psk_file", ike.psk_file), ("key_file", ike.key_file)):
        if secret is not None:
            yield _Named(f"{ike.path}.{key}", secret, is_secret=True)
    certificates = () if ike.certificate_file is None else (ike.certificate_file,)
    for key, files in (
        ("certificate_file", certificates),
        ("authority_files", ike.authority_files),
        ("revocation_files", ike.revocation_files),
    ):
        for index, file in enumerate(files):
            item = f"[#{index + 1}]" if len(files) > 1 else ""
            yield _Named(f"{ike.path}.{key}{item}", file)


def _problems(named: _Named, runner: _Runner) -> Iterator[Problem]:
    path, file, is_secret = named
    try:
        status = file.stat()
    except OSError as error:
        yield Problem(path, f"{file}: {error.strerror or error}")
        return
    if not stat.S_ISREG(status.st_mode):
        yield Problem(path, f"{file} is not a regular file")
        return
    mode = stat.S_IMODE(status.st_mode)
    if is_secret and mode & 0o077:
        yield Problem(path, f"mode {mode:04o} lets others read it; chmod 600 {file}")
    elif mode & 0o022:  # it says whom to trust
        yield Problem(path, f"mode {mode:04o} lets others write it; chmod 644 {file}")
    if status.st_uid not in (0, runner.uid):
        message = f"{file} belongs to user {status.st_uid}; give it to root or to the user who runs this"
        yield Problem(path, message)
    elif not _can_read(file, status, runner):
        yield Problem(path, f"{runner.name} may not read {file}: chown {runner.name} {file}")
    if not status.st_size:
        yield Problem(path, f"{file} is empty; put {'the secret' if is_secret else 'PEM'} in it")


def _can_read(file: Path, status: os.stat_result, runner: _Runner) -> bool:
    """Whether who is to read a file can, as far as that can be told by whoever looks."""
    if runner.uid == os.geteuid():
        return os.access(file, os.R_OK, effective_ids=True)
    return status.st_uid == runner.uid or bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))
