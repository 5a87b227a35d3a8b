"""What the drivers of interfaces do for XDP, as the kernel tells it: its family `netdev`, from Linux 6.3 on.

A driver without these flags is not told apart from one that cannot: before Linux 6.3 only an attempt says.
Layouts are those of <linux/netdev.h>.
"""

from __future__ import annotations

import msgspec
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

_GET_DEVICES = 1
_RUNS, _REDIRECTS, _SENDS = 1 << 0, 1 << 1, 1 << 2  # NETDEV_XDP_ACT_BASIC, _REDIRECT, _NDO_XMIT


class Driver(msgspec.Struct, frozen=True, gc=False):
    """What one interface's driver does."""

    is_native: bool
    """Whether it runs a program itself, and hands on what that redirects."""
    sends: bool
    """Whether it sends what a native program redirects to it: all of that is lost where it does not.

    A veth sends if its far end has GRO on, or a program; many network cards only while they have a
    program themselves.
    """


class _Device(genlmsg):  # type: ignore[misc]
    prefix = "NETDEV_A_DEV_"
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


def read() -> dict[int, Driver] | None:
    """Ask for all interfaces of this network namespace, by index; None: the kernel does not tell.

    This blocks for some milliseconds.
    """
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind("netdev", _Device)
        except NetlinkError:
            return None
        request = _Device()
        request["cmd"], request["version"] = _GET_DEVICES, 1
        answers = netlink.nlm_request(request, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP)
        return {
            answer.get_attr("NETDEV_A_DEV_IFINDEX"): driver(answer.get_attr("NETDEV_A_DEV_XDP_FEATURES"))
            for answer in answers
        }


def driver(flags: int | None) -> Driver:
    """Read the flags that the kernel gives."""
    given = flags or 0
    return Driver(is_native=given & (_RUNS | _REDIRECTS) == _RUNS | _REDIRECTS, sends=bool(given & _SENDS))
