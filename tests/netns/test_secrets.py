"""Nothing that two appliances say shows a secret: neither their most talkative logs nor their answers.

edge-1 (gateway, lookup service, operating interface) ---- eth1 ---- seattle (a gateway of its own)
"""

from __future__ import annotations

import base64
import json
import re
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.lab.certificates import AUTHORITY, CertificateAuthority
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError
from gateway.lab.processes import Process
from gateway.sites.policies import peer_policies
from policies.config import load
from tests.configurations import RED, gateway, site, subnet, table, tenant, token

pytestmark = pytest.mark.netns

EDGE, SEATTLE = "192.0.2.254", "192.0.2.7"
API = f"https://{EDGE}:7638"
RIGHT, WRONG = "the shared secret of seattle", "a secret that seattle has by mistake"
TOKENS = {name: f"token-of-the-{name}-0123456789" for name in ("operator", "reader", "edge-1", "stranger")}

TLS = {"cert": "edge-1.pem", "key": "edge-1.key"}
SERVICES = (
    table("[lookup]", listen=f"{EDGE}:7637")
    + table("[lookup.tls]", **TLS)
    + token("lookup", "edge-1", "gateway")
    + table("[api]", listen=f"{EDGE}:7638")
    + table("[api.tls]", **TLS)
    + token("api", "operator", "operator")
    + token("api", "reader", "reader", tenants=["*"])
)
BY_CERTIFICATE = """
[[tenant.site]]
name = "oslo"
gateway = "edge-1"
prefixes = ["172.17.0.0/16"]
peer = "any"
[tenant.site.ike]
local_id = "edge-1"
remote_id = "oslo.example"
certificate_file = "edge-1.pem"
key_file = "edge-1.key"
authority_files = ["authority.pem"]
"""

# The command line with a log that leaves nothing out.
TALKATIVE = """
import logging
basic = logging.basicConfig
logging.basicConfig = lambda **settings: basic(**{**settings, "level": logging.DEBUG})
from gateway.cli import main
main()
"""


class World:
    """Two appliances, and all that they have said."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.folders = {name: lab.directory / name for name in ("edge-1", "seattle")}
        self.said: list[str] = []
        for folder in self.folders.values():
            folder.mkdir(mode=0o700)
        edge = self.folders["edge-1"]
        CertificateAuthority(edge).issue("edge-1", (EDGE,))
        for name, text in TOKENS.items():
            put(edge / f"{name}.token", text)
        put(edge / "seattle.psk", RIGHT)
        put(self.folders["seattle"] / "edge-1.psk", WRONG)
        to_seattle = site("seattle", peer=SEATTLE, start="respond")
        self.configure("edge-1", EDGE, SERVICES + RED + to_seattle + BY_CERTIFICATE)
        network = tenant("red", "seattle") + subnet("web", 5001, "172.16.0.0/16")
        to_edge = site("edge-1", "10.0.1.0/24", EDGE, gateway="seattle", start="start")
        self.configure("seattle", SEATTLE, network + to_edge)

    def configure(self, name: str, address: str, rest: str) -> None:
        own = gateway(name, address, state=self.folders[name] / "state", log="json")
        (self.folders[name] / "appliance.toml").write_text(own + rest)

    def start(self, name: str) -> Process:
        file = str(self.folders[name] / "appliance.toml")
        command = (sys.executable, "-c", TALKATIVE, "run", file)
        process = self.lab.start(name, self.lab.namespaces[name], *command)
        process.wait_for("ready")
        return process

    def ask(self, name: str, *words: str) -> None:
        """Ask by the command line, and keep what it says."""
        file = str(self.folders[name] / "appliance.toml")
        command = (sys.executable, "-m", "gateway.cli", words[0], file, *words[1:])
        try:
            self.said.append(self.lab.namespaces[name].run(*command).stdout)
        except LabError as error:
            self.said.append(str(error))

    def call(self, path: str, token: str, method: str = "GET", body: bytes | None = None) -> int:
        """Ask by HTTP, and keep what is answered, headers and all."""
        return self.lab.namespaces["seattle"].call(self._call, path, token, method, body)

    def _call(self, path: str, token: str, method: str, body: bytes | None) -> int:
        context = ssl.create_default_context(cafile=self.folders["edge-1"] / AUTHORITY)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(API + path, body, headers, method=method)  # noqa: S310 - https
        try:
            with urllib.request.urlopen(request, context=context, timeout=20) as answer:  # noqa: S310
                self.said += [str(answer.headers), answer.read().decode()]
                return int(answer.status)
        except urllib.error.HTTPError as error:
            self.said += [str(error.headers), error.read().decode()]
            return error.code


def put(file: Path, secret: str) -> None:
    file.touch(mode=0o600)
    file.write_text(secret)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Laboratory() as lab:
        edge, seattle = lab.namespace("edge-1"), lab.namespace("seattle")
        lab.link(edge, "eth1", seattle, "eth1")
        edge.ip(f"address add {EDGE}/24 dev eth1", "link set eth1 up")
        seattle.ip(f"address add {SEATTLE}/24 dev eth1", "link set eth1 up")
        lab.wait_until_ready([edge, seattle])
        yield World(lab)


def secrets(world: World) -> Mapping[str, bytes]:
    """Everything that nobody may see."""
    key = (world.folders["edge-1"] / "edge-1.key").read_text()
    body = "".join(line for line in key.splitlines() if not line.startswith("-"))
    found = {f"token of {name}": token.encode() for name, token in TOKENS.items()}
    # Of the private key, the number itself: 32 octets behind what says that it is one (RFC 5915).
    octets = base64.b64decode(body)
    number = octets[octets.index(b"\x02\x01\x01\x04\x20") + 5 :][:32]
    return {
        **found,
        "the secret": RIGHT.encode(),
        "the wrong secret": WRONG.encode(),
        "the private key": number,
    }


def forms(secret: bytes) -> Iterator[str]:
    """The ways in which a secret could be written, wherever in a longer value it is."""
    yield secret.decode("latin-1")
    yield repr(secret)[2:-1]
    yield json.dumps(secret.decode("latin-1"))[1:-1]
    yield secret.hex()
    yield secret.hex(" ")
    yield secret.hex(":")
    yield ", ".join(map(str, secret))
    for shift in range(3):
        # Of what comes before and after, base64 mixes some bits into its first and last characters.
        coded = base64.b64encode(bytes(shift) + secret).decode()
        yield coded[(shift * 8 + 5) // 6 : len(secret) * 4 // 3 - 2]


def shown(text: str, world: World) -> list[str]:
    # Base64 and hexadecimal may be broken into lines, and upper or lower case.
    flat = re.sub(r"\s|\\n", "", text)
    return [
        name
        for name, secret in secrets(world).items()
        for form in forms(secret)
        if form in text or form.replace(" ", "") in flat or form.upper() in text
    ]


def test_a_secret_that_is_shown_is_found(world: World) -> None:
    for secret in secrets(world).values():
        for written in (
            secret.decode("latin-1"),
            f"x{secret!r}",
            secret.hex().upper(),
            base64.b64encode(b"key " + secret + b" end").decode(),
            base64.encodebytes(b"a longer text in front of it: " + secret).decode(),
        ):
            assert shown(f"down: {written}.", world)
    assert not shown("nothing is shown here", world)


def test_no_secret_is_in_what_appliances_say_whatever_happens_to_them(world: World) -> None:
    edge, seattle = world.start("edge-1"), world.start("seattle")
    edge.wait_for("has the wrong shared secret")
    seattle.wait_for("AUTHENTICATION_FAILED")

    operator, reader = TOKENS["operator"], TOKENS["reader"]
    for path in ("/v1/status", "/v1/sites", "/v1/overview", "/metrics", "/v1/events", "/openapi.json"):
        assert world.call(path, reader) == 200
    for path in ("/v1/report", "/v1/diff"):
        assert world.call(path, operator) == 200
    assert world.call("/v1/report", reader) == 403
    assert world.call("/v1/status", TOKENS["stranger"]) == 401
    assert world.call(f"/v1/sites?{operator}", operator) == 400
    assert operator in world.said.pop()  # whoever has put it into the URL is told what is wrong with that
    assert world.call("/v1/reload", operator, "POST", b'{"token": "x"') == 400

    # A secret's file that is wrong, then another, then the right one.
    secret = world.folders["seattle"] / "edge-1.psk"
    secret.chmod(0o644)
    world.ask("seattle", "reload")
    secret.chmod(0o600)
    put(secret, RIGHT)
    world.ask("seattle", "diff")
    world.ask("seattle", "reload")
    seattle.wait_for('"event":"site-up"')
    edge.wait_for('"event":"site-up"')
    for name in world.folders:
        for command in ("sites", "status", "check"):
            world.ask(name, command)
    put(world.folders["edge-1"] / "operator.token", operator + "-changed")
    assert world.call("/v1/reload", operator, "POST", b"{}") == 200
    assert world.call("/v1/status", operator) == 401
    edge.send_signal(signal.SIGUSR1)
    edge.wait_for('"node":"edge-1"')
    time.sleep(1.2)  # what has happened is written down once a second

    kept = (world.folders["edge-1"] / "state" / "edge-1.events").read_text()
    assert '"site-up"' in kept
    said = "\n".join([*world.said, kept, edge.output(), seattle.output()])
    assert '"level":"debug"' in said
    assert shown(said, world) == []


def test_no_secret_is_in_how_python_shows_a_configuration(world: World) -> None:
    appliance = load(world.folders["edge-1"] / "appliance.toml")
    policies = peer_policies(appliance)
    said = f"{appliance!r} {policies!r} {[policy.credentials for policy in policies]}"

    assert len(policies) == 2
    assert shown(said, world) == []
