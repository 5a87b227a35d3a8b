from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from trio.testing import MockClock

from gateway.lab.certificates import CertificateAuthority
from gateway.operating.certificates import LOOK_EVERY, SOON, Certificates
from gateway.operating.report import CertificateReport
from policies.model import Appliance, Engine, Network
from policies.services import ApiSettings, ServerTls

DAY = 86400.0


def appliance(folder: Path) -> Appliance:
    tls = ServerTls(folder / "edge-1.pem", folder / "edge-1.key")
    api = ApiSettings(tls=tls)
    return Appliance("edge-1", folder, Engine.PYTHON, None, True, None, None, Network(), api=api)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a certificate of 30 days."""
    CertificateAuthority(tmp_path).issue("edge-1")
    return tmp_path


def end_of(folder: Path) -> float:
    certificate = x509.load_pem_x509_certificate((folder / "edge-1.pem").read_bytes())
    return certificate.not_valid_after_utc.timestamp()


def watched(certificates: Certificates, seconds: float) -> None:
    async def main() -> None:
        with trio.move_on_after(seconds):
            await certificates.watch()

    # Files are read in a thread, for which time does not pass.
    trio.run(main, clock=MockClock(autojump_threshold=0.05))


def test_files_of_the_node_are_read_and_their_ends_told(folder: Path) -> None:
    certificates = Certificates(appliance(folder), lambda: (), datetime.now(UTC).timestamp)
    watched(certificates, 1)

    assert certificates.own == [CertificateReport("api.tls", end_of(folder))]


def test_what_ends_soon_is_said_once_a_day(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    of_red = CertificateReport("site", end_of(folder) + 100 * DAY, "red", "seattle")
    of_blue = CertificateReport("site", end_of(folder), "blue", "oslo")
    now = end_of(folder) - SOON + 1
    certificates = Certificates(appliance(folder), lambda: (of_red, of_blue), lambda: now)

    with caplog.at_level(logging.WARNING):
        watched(certificates, 3 * LOOK_EVERY)
    assert [(line.__dict__["what"], line.__dict__["tenant"]) for line in caplog.records] == [
        ("api.tls", ""),
        ("site", "blue"),
    ]
    assert "expires in 14.0 days" in caplog.text

    now += DAY
    with caplog.at_level(logging.WARNING):
        watched(certificates, 1)
    assert len(caplog.records) == 4


def test_certificate_that_has_ended_is_said_to_have(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificates = Certificates(appliance(folder), lambda: (), lambda: end_of(folder) + 1)
    with caplog.at_level(logging.WARNING):
        watched(certificates, 1)

    assert "api.tls has expired" in caplog.text


def test_file_that_cannot_be_read_is_said_and_keeps_nobody_from_the_others(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "edge-1.pem").write_text("no certificate")
    certificates = Certificates(appliance(folder), lambda: (), float)
    with caplog.at_level(logging.WARNING):
        watched(certificates, 1)

    assert certificates.own == []
    assert caplog.records[0].__dict__["event"] == "certificate-unreadable"
