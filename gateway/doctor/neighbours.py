"""Whether the lookup nodes and the members of the cluster behind them answer, and by which clock."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway.doctor.findings import Finding, Level
from policies.model import Appliance

AREA = "lookup"

PATIENCE = 4.0
"""Seconds for each step of a connection."""
LARGEST_ANSWER = 4096


class Neighbour(msgspec.Struct, frozen=True):
    """Somebody who is asked by HTTP whether they are well."""

    what: str
    url: str
    path: str
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class Answer(msgspec.Struct, frozen=True):
    """What they say, or why they say nothing. Seconds; `skew` is how far their clock is ahead."""

    status: int = 0
    said: str = ""
    took: float = 0.0
    skew: float | None = None
    failure: str | None = None


def of(appliance: Appliance) -> Iterator[Neighbour]:
    """Yield the lookup nodes that an appliance follows, and the members of etcd that it stores in."""
    access = appliance.lookup_access
    for url in access.nodes if access is not None else ():
        yield Neighbour(
            "lookup node",
            url,
            "/readyz",
            access.authority_file if access is not None else None,
            access.certificate_file if access is not None else None,
            access.key_file if access is not None else None,
        )
    etcd = appliance.lookup.etcd if appliance.lookup is not None else None
    if etcd is not None:
        for url in etcd.endpoints:
            files = (etcd.authority_file, etcd.certificate_file, etcd.key_file)
            yield Neighbour("etcd member", url, "/health", *files)


def ask(neighbour: Neighbour) -> Answer:
    """Ask one of them. This blocks for some seconds at most."""
    parts = urlsplit(neighbour.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    connection: http.client.HTTPConnection
    try:
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=neighbour.authority)
            if neighbour.certificate is not None:
                context.load_cert_chain(neighbour.certificate, neighbour.key)
            connection = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        began = time.monotonic()
        try:
            connection.request("GET", neighbour.path, headers={"User-Agent": "isthmus doctor"})
            reply = connection.getresponse()
            said = reply.read(LARGEST_ANSWER).decode(errors="replace")
            return Answer(
                reply.status, said, time.monotonic() - began, _skew(reply.getheader("Date"), time.time())
            )
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        return Answer(failure=f"its certificate is not believed: {error.verify_message}")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return Answer(failure=reason or type(error).__name__)


def judge(neighbour: Neighbour, answer: Answer) -> Finding:
    """Say how one of them is."""
    who = f"{neighbour.what} {neighbour.url}"
    if answer.failure is not None:
        advice = "see that it runs, that no firewall is between, and that `ca` vouches for its certificate"
        return Finding(AREA, Level.FAIL, f"{who}: {answer.failure}", advice)
    is_well = answer.status == 200 and '"health":"false"' not in answer.said.replace(" ", "")
    if is_well:
        return Finding(AREA, Level.OK, f"{who} is ready, and answers in {answer.took * 1000:.0f} ms")
    words = f"{who} answers that it is not ready (status {answer.status})"
    advice = "look at its log: it may have just started, or have lost its store"
    return Finding(AREA, Level.FAIL, words, advice)


def _skew(date: str | None, now: float) -> float | None:
    """Their clock says whole seconds: in the middle, that is half a second later."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now if date else None
    except ValueError:
        return None
