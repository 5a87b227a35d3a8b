"""Why a packet did not get into a child SA, or out of one."""

from __future__ import annotations

from enum import StrEnum


class EspDrop(StrEnum):
    """Every packet that ends here is counted under exactly one of these."""

    MALFORMED = "malformed"
    """Too short for ESP; or an authentic packet with wrong padding, or without a whole IP packet in it."""
    UNKNOWN_SPI = "unknown-spi"
    """No child SA of ours has this SPI."""
    REPLAYED = "replayed"
    """It has come before, or is too old to tell."""
    NOT_AUTHENTIC = "not-authentic"
    """The integrity check failed."""
    DUMMY = "dummy"
    """Only sent to hide how much traffic there is (RFC 4303 section 2.6); nothing is wrong."""
    NO_CHILD = "no-child"
    """The site has no child SA for a packet like it now."""
    EXHAUSTED = "exhausted"
    """The child SA has carried all that it may, and was not replaced in time."""
