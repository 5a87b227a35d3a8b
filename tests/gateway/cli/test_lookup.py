"""The commands about a lookup service's network, nodes, leases and pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.gateway.cli.answering import Service, follower, isthmus, serving
from tests.gateway.lookup.client.fake_node import says

# The commands are run as a shell would run them, by main(), which turns errors into exit codes.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

APPLIANCE = """
[appliance]
name = "lookup-1"
[lookup]
listen = "{listen}"
[[provider_host]]
name = "hv1"
provider_addresses = ["198.51.100.11"]
tenants = ["red"]
[[tenant]]
name = "red"
gateways = []
[[tenant.subnet]]
name = "web"
vsid = 5001
prefixes = ["10.0.1.0/24"]
"""


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as found:
        yield found


LEASES = [
    {"pa": "192.0.2.130", "vsid": 5001, "ca": "172.16.0.9", "node": "edge-1", "revision": 7},
    {"pa": "2001:db8:f::5", "vsid": 5001, "ca": "fd00:9::9", "node": "edge-10", "revision": 9},
]


def test_leases_are_shown(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.node.answer = says({"leases": LEASES, "continue": None, "revision": 9})
    chosen = ("--tenant", "red", "--node", "edge-1", "--lookup", service.node.url)
    assert isthmus(monkeypatch, "leases", *chosen) == 0
    assert capsys.readouterr().out == (
        "192.0.2.130    edge-1   for 5001/172.16.0.9\n2001:db8:f::5  edge-10  for 5001/fd00:9::9\n"
    )
    assert service.node.asked == [("GET", "/v1/leases?tenant=red&node=edge-1")]
    assert isthmus(monkeypatch, "leases", *chosen, "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out) == LEASES


@pytest.mark.parametrize(
    ("of", "code", "out", "error"),
    [
        ((), 0, "no gateway has leased an address\n", ""),
        (("--node", "edge-1"), 0, "edge-1 has leased no address\n", ""),
        (("--node", "egde-1"), 1, "", "isthmus: there is no gateway egde-1; known: edge-1\n"),
    ],
)
def test_having_leased_nothing_is_told_from_not_being_there(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    of: tuple[str, ...],
    code: int,
    out: str,
    error: str,
) -> None:
    gateways = [{"name": "edge-1", "provider_addresses": ["192.0.2.254"], "pools": []}]
    service.node.answer = says({"leases": [], "continue": None, "revision": 9, "gateways": gateways})
    assert isthmus(monkeypatch, "leases", *of, "--lookup", service.node.url) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (out, error)


def test_pools_are_shown_with_what_is_left_of_them(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pools = [
        {"prefix": "203.0.113.0/28", "nodes": ["hv1", "hv2"], "size": 14, "held": 3, "quarantined": 1},
        {"prefix": "2001:db8:f::/64", "nodes": ["edge-1"], "size": 2**63 - 1, "held": 0, "quarantined": 0},
    ]
    service.node.answer = says(pools)
    assert isthmus(monkeypatch, "pools", "--lookup", service.node.url) == 0
    assert capsys.readouterr().out == (
        "203.0.113.0/28   3 held, 1 in quarantine, 10 free  hv1, hv2\n"
        "2001:db8:f::/64  0 held, 0 in quarantine, more than 4 billion free  edge-1\n"
    )
    assert isthmus(monkeypatch, "pools", "--json", "--lookup", service.node.url) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == pools


@pytest.mark.parametrize("vm", ["10.0.1.5", "fd00:1::5", "02:00:00:00:01:05", "02-00-00-00-01-05"])
def test_a_migration_claims_all_addresses_of_the_vm_for_its_new_host(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vm: str
) -> None:
    url = service.node.url
    assert isthmus(monkeypatch, "migrate", "--tenant", "red", "--vm", vm, "--to", "hv2", "--lookup", url) == 0
    assert service.node.bodies[-1] == {
        "vsid": 5001,
        "mac": "02:00:00:00:01:05",
        "pa": "203.0.113.12",  # of the IP version that it had
        "mode": "orchestrate",
        "host": "hv2",
        "wait_ms": 1000,
    }
    first, second, *learned, took = capsys.readouterr().out.splitlines()
    assert first == (
        "5001/10.0.1.5 02:00:00:00:01:05: from hv1 at 198.51.100.11 to hv2 at 203.0.113.12, epoch 8"
    )
    assert second.startswith("5001/fd00:1::5 ")
    assert learned == ["hv1 knows", "hv2 knows"]
    assert took.startswith("after ")


def test_a_migration_that_a_host_does_not_know_of_yet_is_a_failure(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.learned = {"hv1": False, "hv2": True}
    arguments = ("migrate", "--vsid", "5001", "--vm", "10.0.1.5", "--to", "hv2", "--json")
    assert isthmus(monkeypatch, *arguments, "--lookup", service.node.url) == 1
    captured = capsys.readouterr()
    assert msgspec.json.decode(captured.out)["learned"] == {"hv1": False, "hv2": True}
    assert "not known yet at hv1" in captured.err


def test_a_host_that_is_not_there_is_told_with_those_that_are(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("migrate", "--vsid", "5001", "--vm", "10.0.1.5", "--to", "hv9")
    assert isthmus(monkeypatch, *arguments, "--lookup", service.node.url) == 1
    assert capsys.readouterr().err == "isthmus: there is no host hv9; known: hv1, hv2\n"


def test_nodes_are_listed_with_what_they_have_learned(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isthmus(monkeypatch, "nodes", "--lookup", service.node.url) == 0
    assert capsys.readouterr().out == (
        "host     hv1  revision 9  up to date, connected for 62 s\n"
        "host     hv2  revision 9  0.2 s behind, connected for 62 s\n"
    )


@pytest.mark.parametrize("is_empty", [False, True])
def test_alerts_are_listed_with_their_times(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_empty: bool
) -> None:
    service.is_empty = is_empty
    assert isthmus(monkeypatch, "alerts", "--lookup", service.node.url) == 0
    assert capsys.readouterr().out == (
        "this lookup node has no alerts\n"
        if is_empty
        else "2023-11-14 22:13:20 UTC  frozen   record 5001/10.0.1.5 has moved too often\n"
    )


def test_alerts_are_not_for_everybody(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.node.answer = says({"revision": 1})
    assert isthmus(monkeypatch, "alerts", "--lookup", service.node.url) == 1
    assert "only operators and gateways" in capsys.readouterr().err


def test_it_is_said_that_nobody_is_connected(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.is_empty = True
    assert isthmus(monkeypatch, "nodes", "--lookup", service.node.url) == 0
    assert capsys.readouterr().out == "no host and no gateway is connected to this lookup node\n"


def test_a_files_network_is_applied_to_the_service_that_the_file_names(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text(APPLIANCE.format(listen=service.node.url.removeprefix("http://")))
    assert isthmus(monkeypatch, "apply", str(file), "--dry-run") == 0
    assert capsys.readouterr().out == (
        "put     tenant red\ndelete  record 5001/10.0.1.9\n2 changes would be made\n"
    )
    assert service.node.asked == [("PUT", "/v1/network?dry_run=true")]
    assert service.node.bodies[0]["tenants"][0]["subnets"][0]["vsid"] == 5001


def test_a_file_without_a_network_is_not_applied(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "appliance.toml"
    file.write_text('[appliance]\nname = "lookup-1"\n[lookup]\n')
    assert isthmus(monkeypatch, "apply", str(file)) == 2
    assert "has no network" in capsys.readouterr().err
    assert not service.node.asked


def test_the_file_of_a_gateway_that_follows_is_not_applied(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = follower(tmp_path, service.node.url)

    assert isthmus(monkeypatch, "apply", str(file)) == 2

    assert "has no network" in capsys.readouterr().err
    assert not service.node.asked
