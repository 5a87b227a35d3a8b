"""What the configuration of a site becomes for the key exchange."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from gateway.sites.policies import children, peer_policies, readable_policies, secrets_shared
from policies.addresses import ProviderAddress
from policies.config import load, parse, site_values
from policies.errors import ConfigurationError
from policies.ipsec import COMPATIBLE_IKE, MODERN_ESP, Lifetimes, SiteStart
from policies.model import Appliance
from policies.selectors import TrafficSelector
from tests.configurations import site
from tunnels.ike.identities import Identity

HEAD = """
[appliance]
name = "edge-1"
[underlay]
provider_addresses = ["192.0.2.254", "2001:db8::254"]
[gateway]
[[provider_gateway]]
name = "edge-2"
provider_addresses = ["192.0.2.253"]
[[tenant]]
name = "red"
gateways = ["edge-1", "edge-2"]
[[tenant.subnet]]
name = "web"
vsid = 5001
prefixes = ["10.0.1.0/24", "fd00:1::/64"]
[[tenant.subnet]]
name = "db"
vsid = 5002
prefixes = ["10.0.2.0/24"]
"""
SEATTLE = site("seattle")


def changed(*changes: tuple[str, str]) -> str:
    text = HEAD + SEATTLE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


def shown(*changes: tuple[str, str]) -> list[str]:
    """The child SAs of the site, with their names."""
    (tenant,) = parse(changed(*changes)).network.tenants
    return [f"{child.name}: {child.selectors}" for child in children(tenant, tenant.sites[0])]


def test_all_prefixes_are_one_child_sa_of_the_families_that_both_sides_have() -> None:
    assert shown() == ["all: 10.0.1.0/24 10.0.2.0/24 === 172.16.0.0/16"]
    assert shown(("172.16.0.0/16", 'fd00:16::/48", "172.16.0.0/16')) == [
        "all: 10.0.1.0/24 fd00:1::/64 10.0.2.0/24 === fd00:16::/48 172.16.0.0/16"
    ]


def test_each_pair_of_one_family_is_a_child_sa_where_pairs_are_wanted() -> None:
    both = ('["172.16.0.0/16"]', '["172.16.0.0/16", "172.18.0.0/16", "fd00:16::/48"]\nselectors = "pairs"')

    assert shown(both) == [
        "10.0.1.0/24 to 172.16.0.0/16: 10.0.1.0/24 === 172.16.0.0/16",
        "10.0.1.0/24 to 172.18.0.0/16: 10.0.1.0/24 === 172.18.0.0/16",
        "fd00:1::/64 to fd00:16::/48: fd00:1::/64 === fd00:16::/48",
        "10.0.2.0/24 to 172.16.0.0/16: 10.0.2.0/24 === 172.16.0.0/16",
        "10.0.2.0/24 to 172.18.0.0/16: 10.0.2.0/24 === 172.18.0.0/16",
    ]


@pytest.mark.parametrize(
    ("prefixes", "child"),
    [
        ('["172.16.0.0/16"]', "any: 0.0.0.0/0 === 0.0.0.0/0"),
        ('["fd00:16::/48"]', "any: ::/0 === ::/0"),
        ('["fd00:16::/48", "172.16.0.0/16"]', "any: 0.0.0.0/0 ::/0 === 0.0.0.0/0 ::/0"),
        ("[]", "any: 0.0.0.0/0 ::/0 === 0.0.0.0/0 ::/0"),
    ],
)
def test_a_route_based_peer_is_offered_everything(prefixes: str, child: str) -> None:
    assert shown(('["172.16.0.0/16"]', f'{prefixes}\nselectors = "any"')) == [child]


def test_a_site_reaches_what_its_local_prefixes_say_another_site_included() -> None:
    transit = ('["172.16.0.0/16"]', '["172.16.0.0/16"]\nlocal_prefixes = ["10.0.1.0/24", "172.20.0.0/16"]')
    tacoma = site("tacoma", "172.20.0.0/16")

    (tenant,) = parse(changed(transit) + tacoma).network.tenants
    (child,) = children(tenant, tenant.sites[0])
    assert str(child.selectors) == "10.0.1.0/24 172.20.0.0/16 === 172.16.0.0/16"


def test_a_server_that_is_still_at_the_site_is_among_its_selectors() -> None:
    route = '\n[[tenant.route]]\nprefix = "10.0.2.77/32"\nvia = "site:seattle"\n'
    inside = '\n[[tenant.route]]\nprefix = "172.16.5.0/24"\nvia = "site:seattle"\n'
    elsewhere = '\n[[tenant.route]]\nprefix = "172.30.0.0/16"\nvia = "10.0.1.9"\n'

    (tenant,) = parse(changed() + route + inside + elsewhere).network.tenants
    (child,) = children(tenant, tenant.sites[0])

    assert child.selectors.remote == (
        TrafficSelector.of(ip_network("172.16.0.0/16")),
        TrafficSelector.of(ip_network("10.0.2.77/32")),
    )


# --- with files


def read(folder: Path, text: str) -> Appliance:
    (folder / "appliance.toml").write_text(text)
    return load(folder / "appliance.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the site's secret."""
    (tmp_path / "seattle.psk").write_text("an open secret\n")
    (tmp_path / "seattle.psk").chmod(0o600)
    return tmp_path


def test_everything_that_is_configured_reaches_the_policy(folder: Path) -> None:
    more = """peer = "203.0.113.7"
start = "trap"
profile = "compatible"
esp_proposals = ["aes256gcm16"]
liveness = "20 s"
lifetimes = { child = "5 s" }
force_udp = true
"""

    (policy,) = peer_policies(read(folder, changed(('peer = "203.0.113.7"\n', more))))

    assert policy.site == ("red", "seattle")
    assert policy.start is SiteStart.TRAP
    assert policy.local_addresses == (
        ProviderAddress.parse("192.0.2.254"),
        ProviderAddress.parse("2001:db8::254"),
    )
    assert policy.remote_address == ProviderAddress.parse("203.0.113.7")
    assert policy.local_id == Identity.parse("edge-1.example")
    assert policy.remote_id == Identity.parse("seattle.example")
    assert policy.credentials.psk == b"an open secret"
    assert policy.ike_proposals == COMPATIBLE_IKE
    assert [str(proposal) for proposal in policy.esp_proposals] == ["aes256gcm16-esn-noesn"]
    assert [child.name for child in policy.children] == ["all"]
    assert policy.lifetimes == Lifetimes(child_seconds=5)
    assert policy.liveness == 20
    assert policy.force_udp


def test_two_readings_of_the_same_files_are_equal_and_a_new_secret_is_not(folder: Path) -> None:
    appliance = read(folder, changed())

    before = peer_policies(appliance)

    assert peer_policies(appliance) == before
    (folder / "seattle.psk").write_text("another\n")
    assert peer_policies(appliance) != before


def test_a_file_that_has_gone_concerns_its_site_alone_which_stays_as_it_was(folder: Path) -> None:
    appliance = read(folder, changed())
    before = peer_policies(appliance)
    (folder / "seattle.psk").unlink()

    policies, problems = readable_policies(appliance, {policy.site: policy for policy in before})
    assert policies == before
    assert [problem.path for problem in problems] == ["tenant[red].site[seattle].ike.psk_file"]
    assert readable_policies(appliance, {}) == ((), problems)
    with pytest.raises(ConfigurationError):
        peer_policies(appliance)


def test_a_peer_that_dials_in_has_no_address(folder: Path) -> None:
    (policy,) = peer_policies(read(folder, changed(('peer = "203.0.113.7"', 'peer = "any"'))))

    assert policy.remote_address is None
    assert policy.start is SiteStart.RESPOND
    assert policy.esp_proposals == MODERN_ESP


def test_the_sites_of_other_gateways_are_not_ours_and_their_files_are_not_read(tmp_path: Path) -> None:
    assert peer_policies(read(tmp_path, changed(('gateway = "edge-1"', 'gateway = "edge-2"')))) == ()


def test_a_node_that_is_no_gateway_has_no_peers() -> None:
    assert peer_policies(parse('[appliance]\nname = "a"\n[lookup]\n')) == ()


def test_what_is_wrong_with_files_is_said_at_their_keys(folder: Path) -> None:
    (folder / "seattle.psk").write_text("0xno hexadecimal")
    (folder / "tacoma.psk").write_text("0sno base64!")
    (folder / "tacoma.psk").chmod(0o600)
    tacoma = site("tacoma", "172.20.0.0/16")

    with pytest.raises(ConfigurationError) as caught:
        peer_policies(read(folder, changed() + tacoma))

    assert [problem.path for problem in caught.value.problems] == [
        "tenant[red].site[seattle].ike.psk_file",
        "tenant[red].site[tacoma].ike.psk_file",
    ]
    message = caught.value.problems[0].message
    assert message.startswith(str(folder / "seattle.psk"))
    assert "no hexadecimal" not in str(caught.value)
    assert "no base64" not in str(caught.value)


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.builds(
                "{}={}".format,
                st.sampled_from(["C", "cn", "O", "DC", "E", "serialNumber", "UID", "S", "X"]),
                st.text(max_size=70),
            ),
            max_size=4,
        ).map(", ".join),
        st.text("0123456789abcdef", max_size=8).map("keyid:{}".format),
        st.ip_addresses().map(str),
    )
)
def test_every_identity_that_the_configuration_takes_is_one(text: str) -> None:
    try:
        taken = site_values.identity(text)
    except ValueError:
        return
    assert Identity.parse(taken).data


def test_certificates_are_read_and_a_key_of_another_is_told(folder: Path) -> None:
    certificate, key = certificate_of("edge-1.example")
    _, other_key = certificate_of("edge-1.example")
    for file, content in (
        ("a.pem", certificate),
        ("ca.pem", certificate),
        ("a.key", key),
        ("b.key", other_key),
    ):
        (folder / file).write_bytes(content)
        (folder / file).chmod(0o600)
    with_key = 'certificate_file = "a.pem", key_file = "a.key", authority_files = ["ca.pem"]'
    with_other = with_key.replace("a.key", "b.key")

    (policy,) = peer_policies(read(folder, changed(('psk_file = "seattle.psk"', with_key))))
    with pytest.raises(ConfigurationError) as caught:
        peer_policies(read(folder, changed(('psk_file = "seattle.psk"', with_other))))

    assert policy.credentials.psk is None
    assert policy.credentials.key is not None
    assert len(policy.credentials.certificates) == len(policy.credentials.authorities) == 1
    (problem,) = caught.value.problems
    assert problem.path == "tenant[red].site[seattle].ike.key_file"


def certificate_of(name: str) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def test_one_secret_for_two_tenants_is_warned_of_and_for_two_sites_of_one_is_not(tmp_path: Path) -> None:
    for name, secret in (("seattle", "one"), ("oslo", "one"), ("boston", "one"), ("lima", "another")):
        (tmp_path / f"{name}.psk").write_text(secret)
        (tmp_path / f"{name}.psk").chmod(0o600)

    blue = HEAD[HEAD.index("[[tenant]]") :].replace('"red"', '"blue"').replace("500", "600")
    file = tmp_path / "appliance.toml"

    def warnings(*blue_sites: str) -> list[str]:
        red = SEATTLE + site("oslo", "172.18.0.0/16")
        file.write_text(HEAD + red + blue + "".join(map(site, blue_sites)))
        return list(secrets_shared(peer_policies(load(file))))

    assert warnings("lima") == []
    (words,) = warnings("boston")
    assert words.endswith("red/seattle, red/oslo, blue/boston")
    assert '"one"' not in words
