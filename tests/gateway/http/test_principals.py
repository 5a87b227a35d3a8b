from __future__ import annotations

from pathlib import Path

import pytest

from gateway.http.principals import (
    ANYBODY,
    NOBODY,
    Credentials,
    Principal,
    Unauthenticated,
    certificate_names,
)
from policies.errors import ConfigurationError
from policies.services import Credential, Role

TOKEN = "0123456789abcdef" * 2


def token_file(folder: Path, content: str, name: str = "a.token") -> Path:
    file = folder / name
    file.write_text(content)
    return file


def test_token_in_its_file_is_who_shows_it(tmp_path: Path) -> None:
    file = token_file(tmp_path, f"{TOKEN}\n")
    found = Credentials.load([Credential("dashboard", Role.READER, ("red",), token_file=file)])

    assert found.identify(f"Bearer {TOKEN}") == Principal("dashboard", Role.READER, frozenset({"red"}))
    assert found.identify(f"bearer {TOKEN}").name == "dashboard"


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \udcff",
    ],
)
def test_anything_but_a_known_token_is_nobody(tmp_path: Path, shown: str | None) -> None:
    file = token_file(tmp_path, TOKEN)
    found = Credentials.load([Credential("op", Role.OPERATOR, token_file=file)])

    with pytest.raises(Unauthenticated) as refused:
        found.identify(shown)
    assert TOKEN not in str(refused.value)


def test_certificate_is_known_by_its_name_and_a_wrong_token_is_not_made_up_for_by_it() -> None:
    found = Credentials.load([Credential("hv1", Role.HOST, subject="hv1.example")])

    assert found.identify(None, ["other", "hv1.example"]).name == "hv1"
    with pytest.raises(Unauthenticated):
        found.identify(None, ["hv1.example.org"])
    with pytest.raises(Unauthenticated):
        found.identify(f"Bearer {TOKEN}", ["hv1.example"])


def test_certificate_has_its_common_name_and_its_dns_names() -> None:
    shown = {
        "subject": ((("organizationName", "Hoster"),), (("commonName", "hv1"),)),
        "subjectAltName": (("DNS", "hv1.example"), ("IP Address", "192.0.2.1")),
    }

    assert list(certificate_names(shown)) == ["hv1", "hv1.example"]
    assert list(certificate_names(None)) == []


def test_without_any_credential_everybody_is_an_operator() -> None:
    assert NOBODY.identify(None) == ANYBODY
    assert ANYBODY.role is Role.OPERATOR


@pytest.mark.parametrize("content", ["", "short", "a token with spaces in it", "x" * 5000, "two\nlines" * 9])
def test_file_that_holds_no_token_is_refused_without_its_content(tmp_path: Path, content: str) -> None:
    file = token_file(tmp_path, content)

    with pytest.raises(ConfigurationError) as refused:
        Credentials.load([Credential("op", Role.OPERATOR, token_file=file)])
    assert str(file) in str(refused.value)
    assert content == "" or content not in str(refused.value)


def test_every_missing_or_repeated_token_is_told_at_once(tmp_path: Path) -> None:
    one, two = token_file(tmp_path, TOKEN, "1"), token_file(tmp_path, TOKEN, "2")
    credentials = [
        Credential("a", Role.OPERATOR, token_file=one),
        Credential("b", Role.HOST, token_file=two),
        Credential("c", Role.HOST, token_file=tmp_path / "missing"),
    ]

    with pytest.raises(ConfigurationError) as refused:
        Credentials.load(credentials)
    assert len(refused.value.problems) == 2
    assert TOKEN not in str(refused.value)
