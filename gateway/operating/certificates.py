"""When the certificates expire that this node shows, or believes by: told in time, for nobody looks there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import trio
from cryptography import x509

from gateway.operating.report import CertificateReport
from policies.model import Appliance

log = logging.getLogger("isthmus.certificates")

LOOK_EVERY = 3600.0
"""Seconds between two looks at the files."""
SOON = 14 * 86400.0
"""Seconds before the end from which on it is told."""
TELL_EVERY = 86400.0


class Certificates:
    """Looks after those of this node's own files, and after those that `of_sites` returns."""

    def __init__(
        self,
        appliance: Appliance,
        of_sites: Callable[[], Iterable[CertificateReport]],
        wall_clock: Callable[[], float],
    ) -> None:
        self._files = dict(_files(appliance))
        self._of_sites = of_sites
        self._wall_clock = wall_clock
        self.own: list[CertificateReport] = []
        """Those of the files."""
        self._told: dict[tuple[str, str, str], float] = {}

    async def watch(self) -> None:
        """Look at the files now and then, and say what ends soon, for ever."""
        while True:
            self.own = await trio.to_thread.run_sync(self._read)
            self._tell(self._wall_clock())
            await trio.sleep(LOOK_EVERY)

    def _read(self) -> list[CertificateReport]:
        found = []
        for use, file in self._files.items():
            try:
                ends = earliest_end(x509.load_pem_x509_certificates(file.read_bytes()))
            except (OSError, ValueError) as error:
                about = {"event": "certificate-unreadable", "what": use}
                log.warning("%s: %s cannot be read: %s", use, file, error, extra=about)
                continue
            if ends is not None:
                found.append(CertificateReport(use, ends))
        return found

    def _tell(self, now: float) -> None:
        there = [*self.own, *self._of_sites()]
        names = {(each.use, each.tenant, each.site) for each in there}
        self._told = {name: at for name, at in self._told.items() if name in names}
        for each in there:
            name = (each.use, each.tenant, each.site)
            if each.expires_at - now >= SOON or now - self._told.get(name, 0.0) < TELL_EVERY:
                continue
            self._told[name] = now
            left = each.expires_at - now
            words = f"expires in {left / 86400:.1f} days" if left > 0 else "has expired"
            about = {
                "event": "certificate-expires",
                "tenant": each.tenant,
                "site": each.site,
                "what": each.use,
            }
            log.warning("the certificate of %s %s", each.use, words, extra=about)


def earliest_end(certificates: Iterable[x509.Certificate]) -> float | None:
    """Return when the first of some certificates expires, in seconds since 1970; None of none."""
    ends = [each.not_valid_after_utc for each in certificates]
    return min(ends).timestamp() if ends else None


def of_site(
    tenant: str, site: str, own: Iterable[x509.Certificate], authorities: Iterable[x509.Certificate]
) -> Iterator[CertificateReport]:
    """Tell of the certificates that a site is dialled with."""
    for use, certificates in (("site", own), ("site-authority", authorities)):
        ends = earliest_end(certificates)
        if ends is not None:
            yield CertificateReport(use, ends, tenant, site)


def _files(appliance: Appliance) -> Iterator[tuple[str, Path]]:
    for section, settings in (("lookup", appliance.lookup), ("api", appliance.api)):
        if settings is not None and settings.tls is not None:
            yield f"{section}.tls", settings.tls.certificate_file
    access = appliance.lookup_access
    if access is not None and access.certificate_file is not None:
        yield ("host.lookup" if appliance.host is not None else "gateway.lookup"), access.certificate_file
