"""Members and lookup nodes know each other by certificates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec
import pytest

from gateway.lookup.entries import Stored
from gateway.lookup.store import StoreUnavailable
from gateway.lookup.stores import etcd_gateway
from policies.errors import ConfigurationError
from policies.services import Etcd
from tests.gateway.lookup.entries import KEY4
from tests.interop.etcd import COMMANDS, Cluster, Tls, opened
from tests.interop.etcd_storm import Storm

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.fixture(scope="module")
def cluster(require_tools: Callable[..., None]) -> Iterator[Cluster]:
    require_tools(*COMMANDS)
    with Cluster(tls=True) as cluster:
        yield cluster


async def _get(settings: Etcd) -> Stored | None:
    async with opened(settings) as store:
        return await store.get(KEY4)


def _refusal(cluster: Cluster, settings: Etcd) -> str:
    with pytest.raises(StoreUnavailable) as refusal:
        cluster.run(_get(settings))
    return str(refusal.value)


def test_writers_and_watchers_by_tls_survive_the_loss_of_a_member(cluster: Cluster) -> None:
    with Storm(cluster) as storm:
        storm.go_on()
        cluster.members[0].kill()
        storm.go_on()
        cluster.members[0].start()
        cluster.members[0].ready()
        storm.go_on()


def test_members_of_another_authority_are_refused_in_words(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 0.1)
    assert cluster.tls is not None
    other = Tls(cluster.directory, "other")
    said = _refusal(cluster, msgspec.structs.replace(cluster.settings(), authority_file=other.authority_file))
    assert "https://10.77.0.2:2379: its certificate is refused here: " in said
    assert "unable to get local issuer certificate" in said


def test_node_without_a_certificate_or_with_a_strangers_is_refused_in_words(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "PATIENCE_SECONDS", 0.1)
    certificate, key = Tls(cluster.directory, "stranger").issue("lookup")
    stranger = msgspec.structs.replace(cluster.settings(), certificate_file=certificate, key_file=key)
    nobody = msgspec.structs.replace(cluster.settings(), certificate_file=None, key_file=None)
    for settings in (stranger, nobody):
        # A member ends the connection after its alert, so that the alert itself may be lost.
        assert re.search("TLS fails: .*bad certificate|connection reset", _refusal(cluster, settings))


def test_files_that_cannot_be_used_are_named(cluster: Cluster) -> None:
    settings = cluster.settings()
    wrong = msgspec.structs.replace(settings, authority_file=settings.key_file)
    with pytest.raises(ConfigurationError, match=r"lookup\.etcd\.ca: .*lookup\.key cannot be used"):
        cluster.run(_get(wrong))
    wrong = msgspec.structs.replace(settings, key_file=settings.authority_file)
    with pytest.raises(ConfigurationError, match=r"lookup\.etcd\.cert: .*lookup\.pem and its key cannot"):
        cluster.run(_get(wrong))
