"""What strongSwan is told, and how its answers are read."""

from __future__ import annotations

import pytest

from gateway.lab.strongswan import Child, Connection, algorithms, configuration, parse_vici

LISTING = """\
list-sa event {
  red site {
    uniqueid = 1
    state = ESTABLISHED
    local-id = C=CH, O=Red = Co, CN=edge
    encr-alg = AES_GCM_16
    encr-keysize = 256
    prf-alg = PRF_HMAC_SHA2_384
    dh-group = ECP_384
    nothing =
    child-sas {
      net-1 {
        state = INSTALLED
        local-ts = [
          10.0.1.0/24
          10.0.2.0/24
        ]
      }
    }
  }
}
list-sa event {
  blue {
    state = CONNECTING
    child-sas {
    }
  }
}
list-sas reply {
}
"""


def test_listing_is_read_with_its_sections_and_lists() -> None:
    red, blue = parse_vici(LISTING)
    sa = red["red site"]
    assert sa["local-id"] == "C=CH, O=Red = Co, CN=edge"
    assert not sa["nothing"]
    assert sa["child-sas"]["net-1"]["local-ts"] == ["10.0.1.0/24", "10.0.2.0/24"]
    assert blue == {"blue": {"state": "CONNECTING", "child-sas": {}}}


def test_algorithms_are_named_with_their_sizes() -> None:
    red, _ = parse_vici(LISTING)
    assert algorithms(red["red site"]) == "AES_GCM_16-256 PRF_HMAC_SHA2_384 ECP_384"


@pytest.mark.parametrize("line", ["no section", "list-sa event {\n  word\n}", "= 1"])
def test_other_words_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        parse_vici(line)


def test_connection_with_a_secret_names_both_identities_of_it() -> None:
    connection = Connection(
        local_id="seattle.example",
        remote_id="edge.example",
        psk="lab only",
        children={"net": Child(local=("172.16.0.0/16",), remote=("10.0.1.0/24", "10.0.2.0/24"))},
    )
    lines = [line.strip() for line in configuration({"edge": connection}).splitlines()]
    assert "remote_ts = 10.0.1.0/24,10.0.2.0/24" in lines
    secrets = lines[lines.index("ike-edge {") :]
    assert secrets[1:4] == ['id-1 = "seattle.example"', 'id-2 = "edge.example"', 'secret = "lab only"']
    assert lines.count("auth = psk") == 2


def test_connection_with_a_certificate_has_no_secret() -> None:
    connection = Connection(
        local_id="a", remote_id="b", certificate="a.pem", children={}, authority="root.pem"
    )
    text = configuration({"edge": connection})
    assert text.count("auth = pubkey") == 2
    assert "certs = a.pem" in text
    assert "cacerts = root.pem" in text
    assert "secret =" not in text
