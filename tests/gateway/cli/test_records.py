"""The commands about records, against a node that answers as the interface says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.gateway.cli.answering import FORM, SIXTH, Service, follower, isthmus, serving
from tests.gateway.lookup.client.fake_node import Answer, says

# The commands are run as a shell would run them, by main(), which turns errors into exit codes.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as found:
        yield found


def test_records_are_listed_one_a_line(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isthmus(monkeypatch, "records", "list", "--tenant", "red", "--lookup", service.node.url) == 0
    assert capsys.readouterr().out == (
        "5001     10.0.1.5         02:00:00:00:01:05  hv1 at 198.51.100.11  encap  epoch 7\n"
        "5001     fd00:1::5        02:00:00:00:01:05  hv1 at 198.51.100.11  encap  epoch 7\n"
    )
    assert service.node.asked == [("GET", "/v1/records?tenant=red&limit=1000")]


@pytest.mark.parametrize(
    ("of", "code", "error"),
    [
        ((), 0, ""),
        (("--tenant", "red"), 0, ""),
        (("--vsid", "5001"), 0, ""),
        (("--tenant", "rde"), 1, "isthmus: there is no tenant rde; known: red\n"),
        (("--vsid", "5009"), 1, "isthmus: no virtual subnet has VSID 5009\n"),
    ],
)
def test_having_no_records_is_told_from_not_being_there(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    of: tuple[str, ...],
    code: int,
    error: str,
) -> None:
    service.is_empty = True
    assert isthmus(monkeypatch, "records", "list", *of, "--lookup", service.node.url) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", error)


def test_records_are_listed_as_json(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isthmus(monkeypatch, "records", "list", "--json", "--lookup", service.node.url) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == [FORM, SIXTH]


@pytest.mark.parametrize("where", [("--vsid", "5001"), ("--tenant", "red")], ids=["VSID", "tenant"])
def test_one_record_is_shown(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: tuple[str, str],
) -> None:
    url = service.node.url
    assert (
        isthmus(monkeypatch, "records", "get", *where, "--address", "10.0.1.5", "--json", "--lookup", url)
        == 0
    )
    assert msgspec.json.decode(capsys.readouterr().out) == FORM


def test_a_record_that_is_not_there_is_a_failure(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = service.node.url
    arguments = ("records", "get", "--vsid", "5001", "--address", "10.0.1.6", "--lookup", url)
    assert isthmus(monkeypatch, *arguments) == 1
    assert capsys.readouterr().err == "isthmus: there is no record of 5001/10.0.1.6\n"


@pytest.mark.parametrize(
    ("option", "header"),
    [
        ((), ("If-None-Match", "*")),
        (("--epoch", "7"), ("If-Match", '"7"')),
        (("--replace",), ("If-Match", "*")),
    ],
    ids=["new", "epoch", "replace"],
)
def test_a_record_is_written_with_a_precondition(
    service: Service, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], header: tuple[str, str]
) -> None:
    record = ("--vsid", "5001", "--address", "10.0.1.5", "--mac", "02:00:00:00:01:05", "--host", "hv1")
    assert isthmus(monkeypatch, "records", "put", *record, *option, "--lookup", service.node.url) == 0
    assert service.node.headers[-1][header[0]] == header[1]
    assert service.node.bodies[-1] == {"mac": FORM["mac"], "host": "hv1"}


def test_the_way_and_the_address_of_a_record_are_written_where_they_are_given(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ("--vsid", "5001", "--address", "10.0.1.5", "--mac", "02:00:00:00:01:05", "--host", "hv1")
    given = ("--pa", "198.51.100.130", "--translation", "rewrite", "--lookup", service.node.url)
    assert isthmus(monkeypatch, "records", "put", *record, *given) == 0
    wanted = {"mac": FORM["mac"], "host": "hv1", "pa": "198.51.100.130", "translation": "rewrite"}
    assert service.node.bodies[-1] == wanted


def test_record_whose_address_is_anothers_is_refused_with_the_holder(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ("--vsid", "5001", "--address", "10.0.1.6", "--mac", "02:00:00:00:01:06", "--host", "hv1")
    put = ("records", "put", *record, "--pa", "198.51.100.11", "--lookup", service.node.url)
    refusal = {"title": "Conflict", "reason": "address-taken", "pa": "198.51.100.11"}
    service.node.answer = says({**refusal, "current": FORM}, 409)
    assert isthmus(monkeypatch, *put) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "isthmus: 198.51.100.11 is taken"
    assert "at present: 5001     10.0.1.5 " in second
    service.node.answer = says({**refusal, "current": None}, 409)
    assert isthmus(monkeypatch, *put) == 1
    assert capsys.readouterr().err == (
        "isthmus: 198.51.100.11 is taken: a gateway has leased it, or it is in quarantine\n"
    )


def test_what_is_in_the_way_of_a_write_is_shown(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.node.answer = says({"title": "Precondition Failed", "current": FORM}, 412)
    arguments = ("records", "delete", "--vsid", "5001", "--address", "10.0.1.5", "--epoch", "3")
    assert isthmus(monkeypatch, *arguments, "--lookup", service.node.url) == 1
    assert "at present: 5001     10.0.1.5 " in capsys.readouterr().err


def test_deleting_and_unfreezing_say_so(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ("--vsid", "5001", "--address", "10.0.1.5", "--lookup", service.node.url)
    assert isthmus(monkeypatch, "records", "delete", *record) == 0
    assert isthmus(monkeypatch, "records", "unfreeze", *record) == 0
    assert "5001/10.0.1.5 is deleted" in capsys.readouterr().out
    assert isthmus(monkeypatch, "records", "delete", *record, "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out) == {"vsid": 5001, "ca": "10.0.1.5", "deleted": True}
    assert service.node.asked == [
        ("DELETE", "/v1/records/5001/10.0.1.5"),
        ("POST", "/v1/records/5001/10.0.1.5/unfreeze"),
        ("DELETE", "/v1/records/5001/10.0.1.5"),
    ]


def test_trace_asks_who_is_followed_for_the_network_and_the_records(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = follower(tmp_path, service.node.url)

    ends = ("--from", "10.0.1.5", "--to", "10.0.1.99")
    assert isthmus(monkeypatch, "trace", str(file), "--tenant", "red", *ends) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"by {file} and the lookup service"
    assert lines[1].split(maxsplit=2)[2] == "VSID 5001 is web of tenant red"
    assert lines[2].split(maxsplit=1) == ["source", "10.0.1.5 behind 198.51.100.11: admitted"]
    assert ("GET", "/v1/records?tenant=red&limit=1000") in service.node.asked


def test_trace_says_that_who_is_followed_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = follower(tmp_path, "http://127.0.0.1:1")

    ends = ("--from", "10.0.1.5", "--to", "10.0.1.99")
    assert isthmus(monkeypatch, "trace", str(file), "--tenant", "red", *ends) == 1

    assert "no lookup node can answer: http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nodes",), "which lookup service"),
        (("nodes", "--lookup", "lookup-1:7637"), "is no URL"),
        (("nodes", "--lookup", "http://[::1"), "is no URL"),
        (("nodes", "--lookup", "http://127.0.0.1:1", "--token-file", "nowhere"), "nowhere"),
        (("records", "get", "--address", "10.0.1.5"), "one of --tenant and --vsid"),
        (("records", "get", "--address", "10.0.1", "--vsid", "5001"), "10.0.1"),
        (("migrate", "--vm", "vm7", "--to", "hv1", "--vsid", "5001"), "vm7"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_makes_no_sense_is_misuse(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert isthmus(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_service_that_does_not_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isthmus(monkeypatch, "nodes", "--lookup", "http://127.0.0.1:1") == 1
    assert "isthmus: no lookup node can answer: http://127.0.0.1:1: " in capsys.readouterr().err


def answering(status: int) -> Answer:
    return says({"detail": "only an operator may"}, status)


@pytest.mark.parametrize("status", [401, 403, 422])
def test_a_refusal_is_told_in_the_services_words(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    service.node.answer = answering(status)
    assert isthmus(monkeypatch, "nodes", "--lookup", service.node.url) == 1
    assert "isthmus: only an operator may" in capsys.readouterr().err
