"""The whole examination, of a node that serves records and has no underlay, and of what hangs."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import cli
from gateway.doctor import examination, kernel, neighbours, running
from gateway.doctor.findings import Finding, Level
from policies.config import parse
from policies.model import Appliance
from tests.configurations import table, token

FILE = (
    table("[appliance]", name="lookup-1", state="state")
    + table("[lookup]", listen="127.0.0.1:7637")
    + table("[lookup.tls]", cert="node.pem", key="node.key")
    + token("lookup", "op", "operator")
)

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def certify(folder: Path, ends_in: timedelta) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lookup-1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + ends_in)
        .sign(key, hashes.SHA256())
    )
    (folder / "node.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "node.key").write_bytes(secret)
    (folder / "node.key").chmod(0o600)
    (folder / "op.token").write_text("x" * 32)
    (folder / "op.token").chmod(0o600)
    (folder / "appliance.toml").write_text(FILE)


def doctor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[Finding]]:
    """Run the command; return its exit code and what it found."""
    monkeypatch.setattr("sys.argv", ["isthmus", "doctor", str(folder / "appliance.toml"), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    found = msgspec.json.decode(capsys.readouterr().out, type=list[Finding])
    return (code if isinstance(code, int) else 0), found


def level_of(found: list[Finding], words: str) -> Level:
    (level,) = {each.level for each in found if words in each.what}
    return level


@pytest.mark.parametrize(
    ("days", "level", "code"), [(-3, Level.FAIL, 1), (3, Level.WARN, 0), (300, Level.OK, 0)]
)
def test_a_certificate_is_found_before_it_expires_and_after(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    days: int,
    level: Level,
    code: int,
) -> None:
    certify(tmp_path, timedelta(days=days))
    ended, found = doctor(tmp_path, monkeypatch, capsys)
    assert ended == code
    assert level_of(found, "[lookup.tls] cert: the certificate in") is level


def test_a_secret_that_others_may_read_is_a_finding_and_the_rest_is_examined_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certify(tmp_path, timedelta(days=300))
    (tmp_path / "node.key").chmod(0o644)
    ended, found = doctor(tmp_path, monkeypatch, capsys)
    assert ended == 1
    assert level_of(found, "mode 0644 lets others read it; chmod 600") is Level.FAIL
    assert level_of(found, "the certificate in") is Level.OK


def test_a_state_folder_that_others_may_write_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certify(tmp_path, timedelta(days=300))
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    ended, found = doctor(tmp_path, monkeypatch, capsys)
    assert (ended, level_of(found, "lets others write there")) == (1, Level.FAIL)


def test_a_file_that_makes_no_sense_is_misuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "appliance.toml").write_text('[appliance]\nname = "x"\n[lookpu]\n')
    monkeypatch.setattr("sys.argv", ["isthmus", "doctor", str(tmp_path / "appliance.toml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "lookpu" in capsys.readouterr().err


def test_findings_are_shown_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certify(tmp_path, timedelta(days=-3))
    monkeypatch.setattr("sys.argv", ["isthmus", "doctor", str(tmp_path / "appliance.toml")])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if "expired 3 days ago" in line)
    assert lines[at].startswith("fail     certificates   [lookup.tls] cert: ")
    assert lines[at + 1] == " " * 24 + "-> renew it; it is read again by itself"
    assert "1 fail" in lines[-1]


def lookup_only() -> Appliance:
    return parse('[appliance]\nname = "lookup-1"\nstate = "nowhere"\n[lookup]\n')


def examine(appliance: Appliance) -> list[Finding]:
    return trio.run(functools.partial(examination.examine, appliance, [], lambda: None))


def test_what_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: Any) -> None:
        time.sleep(3)

    monkeypatch.setattr(examination, "WITHIN", 0.3)
    monkeypatch.setattr(examination, "ASKED_WITHIN", 0.1)
    monkeypatch.setattr(running, "look", hang)
    monkeypatch.setattr(neighbours, "ask", hang)
    node = neighbours.Neighbour("lookup node", "https://192.0.2.1", "/readyz")
    monkeypatch.setattr(neighbours, "of", lambda _appliance: [node])
    began = time.monotonic()
    found = examine(lookup_only())
    assert time.monotonic() - began < 2
    assert [each.level for each in found if each.area in {"appliance", "lookup"}] == [Level.SKIPPED] * 2


def test_what_may_not_be_looked_at_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kernel, "look", refuse)
    (found,) = [each for each in examine(lookup_only()) if each.area == "kernel"]
    assert (found.level, found.what) == (
        Level.SKIPPED,
        "this could not be looked at: Permission denied",
    )
