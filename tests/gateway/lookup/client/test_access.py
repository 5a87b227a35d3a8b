"""Where the command line finds the lookup service, and by which credential."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.lookup.client.access import Given, find_access
from policies.config import parse
from policies.errors import ConfigurationError
from policies.services import LookupAccess
from tests.configurations import WEB, provider_host, table, tenant, token

TENANT = (
    table("[appliance]", name="edge-1")
    + provider_host("hv1", "198.51.100.11")
    + tenant("red", gateway=None)
    + WEB
)
TLS = """
[lookup]
listen = "{listen}"
tls = {{ cert = "node.pem", key = "node.key", client_ca = "ca.pem" }}
"""
TOKENS = (
    token("lookup", "hv1", "host") + token("lookup", "absent", "operator") + token("lookup", "op", "operator")
)
FOLLOWER = """
[appliance]
name = "hv1"
[underlay]
provider_addresses = ["198.51.100.11"]
[host]
name = "hv1"
lookup = ["https://192.0.2.253:7637"]
token_file = "hv1.token"
"""


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:7637", "http://127.0.0.1:7637"),
        ("[::1]:7000", "http://[::1]:7000"),
    ],
)
def test_a_node_without_credentials_is_asked_on_loopback(listen: str, url: str) -> None:
    appliance = parse(f'{TENANT}[lookup]\nlisten = "{listen}"\n')
    assert find_access(appliance, Given()) == LookupAccess((url,))


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("192.0.2.253:7637", "https://192.0.2.253:7637"),
        ("0.0.0.0:7637", "https://127.0.0.1:7637"),
        ("[::]:7637", "https://[::1]:7637"),
    ],
)
def test_a_node_is_asked_by_the_first_operators_token_that_can_be_read(
    tmp_path: Path, listen: str, url: str
) -> None:
    (tmp_path / "op.token").write_text("an operator's token")
    appliance = parse(TENANT + TLS.format(listen=listen) + TOKENS, base=tmp_path)
    wanted = LookupAccess((url,), tmp_path / "op.token", tmp_path / "ca.pem")
    assert find_access(appliance, Given()) == wanted


def test_a_token_that_cannot_be_read_has_to_be_given(tmp_path: Path) -> None:
    appliance = parse(TENANT + TLS.format(listen="192.0.2.253:7637") + TOKENS, base=tmp_path)
    with pytest.raises(ConfigurationError, match="--token-file"):
        find_access(appliance, Given())
    given = Given(token_file=Path("mine"), authority_file=Path("ours"))
    wanted = LookupAccess(("https://192.0.2.253:7637",), Path("mine"), Path("ours"))
    assert find_access(appliance, given) == wanted


def test_a_follower_asks_whom_it_follows(tmp_path: Path) -> None:
    appliance = parse(FOLLOWER, base=tmp_path)
    wanted = LookupAccess(("https://192.0.2.253:7637",), tmp_path / "hv1.token")
    assert find_access(appliance, Given()) == wanted


def test_what_is_given_wins() -> None:
    appliance = parse(f"{TENANT}[lookup]\n")
    assert find_access(appliance, Given(("http://127.0.0.1:1",))).nodes == ("http://127.0.0.1:1",)
    assert find_access(None, Given(("https://[::1]:7637",))).nodes == ("https://[::1]:7637",)


@pytest.mark.parametrize(
    "url", ["lookup-1:7637", "ftp://lookup-1", "http://", "http://x:99999", "http://[::1"]
)
def test_what_is_no_url_is_said_to_be_none(url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL"):
        find_access(None, Given((url,)))


def test_nothing_that_says_where_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="--lookup"):
        find_access(None, Given())
