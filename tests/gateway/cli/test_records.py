"""The commands that ask a lookup service, against a node that answers as the interface says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from gateway import cli
from tests.gateway.lookup.client.fake_node import Answer, FakeNode, running, says

# The commands are run as a shell would run them, by main(), which turns errors into exit codes.
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

FORM: dict[str, Any] = {
    "vsid": 5001,
    "ca": "10.0.1.5",
    "mac": "02:00:00:00:01:05",
    "pa": "198.51.100.11",
    "host": "hv1",
    "translation": "encap",
    "epoch": 7,
    "revision": 1234,
}
SIXTH = {**FORM, "ca": "fd00:1::5"}
MOVED = [
    {**each, "pa": "203.0.113.12", "host": "hv2", "epoch": 8, "revision": 1300} for each in (FORM, SIXTH)
]
NETWORK = {
    "hosts": [
        {"name": "hv1", "provider_addresses": ["198.51.100.11", "2001:db8::11"], "tenants": ["red"]},
        {"name": "hv2", "provider_addresses": ["2001:db8::12", "203.0.113.12"], "tenants": ["red"]},
    ],
    "gateways": [],
    "tenants": [
        {
            "name": "red",
            "gateways": [],
            "subnets": [
                {
                    "name": "web",
                    "vsid": 5001,
                    "prefixes": ["10.0.1.0/24", "fd00:1::/64"],
                    "gateway_addresses": ["10.0.1.1", "fd00:1::1"],
                }
            ],
        }
    ],
}

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


class Service:
    """A node in a thread, for commands that run a loop of their own."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.learned = {"hv1": True, "hv2": True}
        self.is_empty = False
        """Whether nothing is recorded, and nobody is connected."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        match request.method, request.path:
            case "GET", "/v1/records" if self.is_empty:
                answer: object = {"records": [], "continue": None, "revision": 1234}
            case "GET", "/v1/status" if self.is_empty:
                answer = {"alerts": []}
            case "GET", "/v1/status":
                frozen = {
                    "at": 1.7e9,
                    "kind": "frozen",
                    "message": "record 5001/10.0.1.5 has moved too often",
                }
                answer = {"alerts": [frozen]}
            case "GET", "/v1/nodes" if self.is_empty:
                answer = []
            case "GET", "/v1/records":
                answer = {"records": [FORM, SIXTH], "continue": None, "revision": 1234}
            case "POST", "/v1/resolve":
                wanted = (await request.json())[0]["ca"]
                found = {each["ca"]: each for each in (FORM, SIXTH)}.get(wanted)
                answer = {"records": [found], "revision": 1234, "stale_seconds": 0.0}
            case "GET", "/v1/network":
                answer = NETWORK
            case "PUT", "/v1/network":
                changes = [
                    {"action": "put", "kind": "tenant", "name": "red"},
                    {"action": "delete", "kind": "record", "vsid": 5001, "ca": "10.0.1.9"},
                ]
                answer = {"changes": changes}
            case "POST", "/v1/claims":
                answer = {"records": MOVED, "learned": self.learned}
            case "GET", "/v1/nodes":
                node = {"role": "host", "revision": 9, "connected_seconds": 61.5}
                answer = [{**node, "name": "hv2", "behind": 0.25}, {**node, "name": "hv1", "behind": 0.0}]
            case "DELETE", _:
                return web.Response(status=204)
            case _:
                answer = FORM
        return await says(answer)(request)


@contextmanager
def serving() -> Iterator[Service]:
    """Run a node until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()
    try:

        async def start() -> FakeNode:
            return await stack.enter_async_context(running(says({})))

        node = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
        service = Service(node)
        node.answer = service.answer
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as found:
        yield found


def isthmus(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line, and return its exit code."""
    monkeypatch.setattr("sys.argv", ["isthmus", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


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


def follower(folder: Path, url: str) -> Path:
    """The file of a gateway that has the network from a lookup service."""
    file = folder / "edge-1.toml"
    file.write_text(
        '[appliance]\nname = "edge-1"\n[underlay]\nprovider_addresses = ["192.0.2.254"]\n'
        f'[gateway]\nlookup = ["{url}"]\n'
    )
    return file


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
