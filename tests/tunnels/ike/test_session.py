"""The first two exchanges: both sides come up, by every suite, or say in words why not."""

from __future__ import annotations

from tests.tunnels.ike.pair import pair
from tunnels.effects import InstallChild, SiteUp


def test_two_sides_come_up_with_one_child_sa_that_fits_together() -> None:
    both = pair()
    both.connect()
    assert both.left.is_up and both.right.is_up
    (ours,) = both.left.installed.values()
    (theirs,) = both.right.installed.values()
    assert ours.outbound_spi == theirs.inbound_spi and ours.inbound_spi == theirs.outbound_spi
    assert ours.inbound == theirs.outbound and ours.outbound == theirs.inbound
    assert [len(side.asked(SiteUp)) for side in (both.left, both.right)] == [1, 1]
    assert both.left.asked(InstallChild)[0].sending
