"""Certificates against strongSwan, by either side."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from gateway.lab.strongswan import StrongSwan
from tests.interop.authority import Authority, Credential, KeyKind
from tests.interop.strongswan import (
    EDGE_ID,
    SERVER,
    VM,
    Gateway,
    Initiator,
    World,
    connected,
    lost,
    matrix,
    started,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]

SEATTLE_ID = "seattle.example"

# The key, and how strongSwan signs. We sign by RFC 7427 with what the other side takes.
SIGNATURES = {
    "ecdsa256": (KeyKind.ECDSA_256, "ecdsa-sha256"),
    "ecdsa384": (KeyKind.ECDSA_384, "ecdsa-sha384"),
    "rsa-pkcs1": (KeyKind.RSA, "rsa/pkcs1-sha256"),
    "rsa-pss": (KeyKind.RSA, "rsa/pss-sha256"),
}
QUICK = {("ecdsa256", Initiator.STRONGSWAN), ("rsa-pss", Initiator.ISTHMUS)}
MATRIX = matrix(SIGNATURES, QUICK)


@cache
def root(name: str) -> Authority:
    return Authority(name)


def trust_ours(world: World, own: Credential, authority: Authority) -> dict[str, Any]:
    """Our keys of the site's `ike`, and their files: our certificate, and who may vouch for the peer."""
    world.put_secret("edge.pem", own.chain)
    world.put_secret("edge.key", own.key)
    world.put_secret("authority.pem", authority.pem)
    files = {"certificate_file": "edge.pem", "key_file": "edge.key", "authority_files": ["authority.pem"]}
    return {"local_id": EDGE_ID, "remote_id": SEATTLE_ID, **files}


def give_theirs(own: Credential, authority: Authority) -> Callable[[StrongSwan], None]:
    """The files of strongSwan."""

    def give(swan: StrongSwan) -> None:
        swan.credential("x509", "seattle.pem", own.certificate)
        for number, certificate in enumerate(own.intermediates):
            swan.credential("x509ca", f"intermediate{number}.pem", certificate)
        swan.credential("private", "seattle.key", own.key)
        swan.credential("x509ca", "authority.pem", authority.pem)

    return give


def tunnel(
    world: World,
    initiator: Initiator,
    *,
    edge: Credential,
    seattle: Credential,
    authority: Authority | None = None,
    method: str = "pubkey",
    begin: Callable[..., tuple[Gateway, StrongSwan]] = connected,
    **more: Any,
) -> tuple[Gateway, StrongSwan]:
    authority = authority or root("laboratory")
    files = {"certificate": "seattle.pem", "authentication": method, "authority": "authority.pem"}
    ike = trust_ours(world, edge, authority)
    return begin(
        world,
        initiator,
        site={"ike": {**ike, **more.pop("ike", {})}},
        connection={**files, **more.pop("connection", {})},
        settings={"rsa_pss": "pss" in method, **more.pop("settings", {})},
        prepare=give_theirs(seattle, authority),
    )


@pytest.mark.parametrize(("name", "initiator"), MATRIX)
def test_certificates_of_one_authority_bring_the_tunnel_up(
    world: World, name: str, initiator: Initiator
) -> None:
    kind, method = SIGNATURES[name]
    authority = root("laboratory")
    edge, seattle = authority.issue(EDGE_ID, kind), authority.issue(SEATTLE_ID, kind)
    tunnel(world, initiator, edge=edge, seattle=seattle, method=method)
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.server("seattle"), VM) == 0


@pytest.mark.parametrize(
    "initiator", [Initiator.ISTHMUS, pytest.param(Initiator.STRONGSWAN, marks=pytest.mark.long)]
)
def test_long_chains_cross_in_fragments_of_ike(world: World, initiator: Initiator) -> None:
    authority = root("laboratory")
    issuer = authority.below("first", KeyKind.RSA).below("second", KeyKind.RSA)
    edge, seattle = issuer.issue(EDGE_ID, KeyKind.RSA), issuer.issue(SEATTLE_ID, KeyKind.RSA)
    _, swan = tunnel(world, initiator, edge=edge, seattle=seattle)
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert "received fragment #1" in swan.log
    assert "splitting IKE message" in swan.log


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_certificate_of_another_authority_is_refused(world: World, initiator: Initiator) -> None:
    """Blue's authority cannot vouch for a peer of Red, though strongSwan trusts ours."""
    edge, stranger = root("laboratory").issue(EDGE_ID), root("blue").issue(SEATTLE_ID)
    gateway, _ = tunnel(world, initiator, edge=edge, seattle=stranger, begin=started)
    gateway.wait_for_error("seattle", "authority|certificate|issuer")
    assert gateway.site("seattle").state != "up"


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_certificate_for_another_name_is_refused(world: World, initiator: Initiator) -> None:
    authority = root("laboratory")
    edge, other = authority.issue(EDGE_ID), authority.issue("other.example")
    gateway, _ = tunnel(
        world,
        initiator,
        edge=edge,
        seattle=other,
        begin=started,
        connection={"local_id": "other.example"},
    )
    expected = "identit|authenticat" if initiator is Initiator.ISTHMUS else "other.example"
    gateway.wait_for_error("seattle", expected)
    assert gateway.site("seattle").state != "up"


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_revoked_certificate_is_refused(world: World, initiator: Initiator) -> None:
    authority = root("laboratory")
    edge, seattle = authority.issue(EDGE_ID), authority.issue(SEATTLE_ID)
    world.put_secret("revoked.pem", authority.revoke(seattle))
    gateway, _ = tunnel(
        world,
        initiator,
        edge=edge,
        seattle=seattle,
        begin=started,
        ike={"revocation_files": ["revoked.pem"]},
    )
    gateway.wait_for_error("seattle", "revoked")
    assert gateway.site("seattle").state != "up"
