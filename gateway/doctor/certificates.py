"""The certificates and revocation lists that the configuration names: whether they hold, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography import x509

from gateway.doctor.findings import Finding, Level
from gateway.operating.certificates import SOON
from policies.model import Appliance
from policies.services import Etcd, LookupAccess

AREA = "certificates"

DAY = 86400.0


class Validity(msgspec.Struct, frozen=True):
    """From when to when something holds, in seconds since 1970."""

    use: str
    file: Path
    begins: float
    ends: float
    kind: str = "certificate"


def named(appliance: Appliance) -> Iterator[tuple[str, Path, str]]:
    """Yield the use of each file with certificates or revocation lists that this node reads, and its kind."""
    for section, settings in (("lookup", appliance.lookup), ("api", appliance.api)):
        if settings is not None and settings.tls is not None:
            yield f"[{section}.tls] cert", settings.tls.certificate_file, "certificate"
            if settings.tls.client_authority_file is not None:
                yield f"[{section}.tls] client_ca", settings.tls.client_authority_file, "certificate"
    asking: list[tuple[str, LookupAccess | Etcd | None]] = [("lookup", appliance.lookup_access)]
    if appliance.lookup is not None:
        asking.append(("lookup.etcd", appliance.lookup.etcd))
    for section, access in asking:
        if access is not None and access.certificate_file is not None:
            yield f"{section} cert", access.certificate_file, "certificate"
        if access is not None and access.authority_file is not None:
            yield f"{section} ca", access.authority_file, "certificate"
    for tenant in appliance.network.tenants if appliance.gateway else ():
        for site in tenant.sites:
            if site.gateway != appliance.name:
                continue
            use = f"site {tenant.name}/{site.name}"
            if site.ike.certificate_file is not None:
                yield f"{use} certificate", site.ike.certificate_file, "certificate"
            for file in site.ike.authority_files:
                yield f"{use} authority", file, "certificate"
            for file in site.ike.revocation_files:
                yield f"{use} revocations", file, "revocation list"


def look(use: str, file: Path, kind: str) -> list[Validity] | Finding:
    """Read one file: what is in it, or why it cannot be read."""
    try:
        content = file.read_bytes()
        if kind == "certificate":
            found = x509.load_pem_x509_certificates(content)
            return [
                Validity(
                    use, file, each.not_valid_before_utc.timestamp(), each.not_valid_after_utc.timestamp()
                )
                for each in found
            ]
        load = x509.load_pem_x509_crl if b"-----BEGIN" in content else x509.load_der_x509_crl
        listed = load(content)
        ends = listed.next_update_utc
        end = ends.timestamp() if ends is not None else float("inf")
        return [Validity(use, file, listed.last_update_utc.timestamp(), end, kind)]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Finding(AREA, Level.FAIL, f"{use}: {file} cannot be read: {reason}", "put PEM in it")


def judge(found: Validity, now: float) -> Finding:
    """Say whether something holds at a time, and for how long."""
    what = f"{found.use}: the {found.kind} in {found.file}"
    left = found.ends - now
    renew = "renew it; it is read again by itself" if found.kind == "certificate" else "fetch the next one"
    if left <= 0:
        return Finding(AREA, Level.FAIL, f"{what} expired {-left / DAY:.0f} days ago", renew)
    if found.begins > now:
        words = f"{what} holds from {(found.begins - now) / DAY:.1f} days on only"
        return Finding(AREA, Level.FAIL, words, "look at the clocks of this machine and of who issued it")
    if left < SOON:
        return Finding(AREA, Level.WARN, f"{what} expires in {left / DAY:.1f} days", renew)
    until = f"for {left / DAY:.0f} days" if left != float("inf") else "for ever"
    return Finding(AREA, Level.OK, f"{what} holds {until}")
