"""Where packets can be looked at on their way, while somebody does.

The data path calls through a few references. While it is observed these lead through the
functions here, and else past them: nobody who does not look pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.forwarding.verdicts import (
    Emission,
    OuterHeader,
    PortKey,
    ToPort,
    ToProvider,
    ToUnderlay,
    Verdict,
)
from policies.facts import PacketFacts
from policies.model import Port
from policies.selectors import Selectors
from tunnels.effects import Path, SiteKey
from tunnels.esp.associations import Opened, Sealed
from tunnels.esp.drops import EspDrop


class Observer(Protocol):
    """Is shown each packet where it comes in and where it leaves. It must be quick, and must not raise."""

    def underlay_in(self, outer: OuterHeader, payload: bytes, verdict: Verdict) -> None:
        """GRE has come from the underlay, and this was decided of it."""
        ...

    def underlay_out(self, packet: ToUnderlay, lost: OSError | None) -> None:
        """NVGRE has been sent, or could not be."""
        ...

    def provider_in(self, packet: bytes, verdict: Verdict) -> None:
        """A rewritten packet has come from the underlay, and this was decided of it."""
        ...

    def provider_out(self, packet: ToProvider, lost: OSError | None) -> None:
        """A rewritten packet has been sent, or could not be."""
        ...

    def port_in(self, port: Port, frame: bytes, verdict: Verdict) -> None:
        """A VM has sent a frame at its port, and this was decided of it."""
        ...

    def port_out(self, port: Port, frame: ToPort, lost: OSError | None) -> None:
        """A port has been given a frame, or could not be."""
        ...

    def site_in(self, site: SiteKey, packet: bytes, verdict: Verdict) -> None:
        """A site's tunnel has brought a packet, and this was decided of it."""
        ...

    def site_out(self, site: SiteKey, packet: bytes, sealed: Sealed | EspDrop) -> None:
        """A packet has been encrypted to a site, or why not."""
        ...

    def esp_in(
        self, site: SiteKey | None, path: Path, packet: bytes, ecn: int, opened: Opened | EspDrop
    ) -> None:
        """An ESP packet has come, for a site's SA or for none, and been decrypted, or why not."""
        ...

    def ike(self, site: SiteKey | None, path: Path, message: bytes, *, is_inbound: bool) -> None:
        """A message of the key exchange has come, or is sent, for a site as far as that is known."""
        ...


class Deciding(Protocol):
    """What decides packets: the forwarder, or an observed one."""

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict: ...

    def from_provider(self, packet: bytes, now: float) -> Verdict: ...

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict: ...

    def from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict: ...


E = TypeVar("E", bound=Emission)
Seal = Callable[[SiteKey, PacketFacts, bytes, float], Sealed | EspDrop]
Open = Callable[[Path, bytes, int, float], Opened | EspDrop]
FindPort = Callable[[PortKey], Port | None]


class Observed:
    """Decides as another does, and shows it."""

    def __init__(self, deciding: Deciding, find_port: FindPort, observer: Observer) -> None:
        self._deciding = deciding
        self._find_port = find_port
        self._observer = observer

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide, and show it."""
        verdict = self._deciding.from_underlay(outer, payload, now)
        self._observer.underlay_in(outer, payload, verdict)
        return verdict

    def from_provider(self, packet: bytes, now: float) -> Verdict:
        """Decide, and show it."""
        verdict = self._deciding.from_provider(packet, now)
        self._observer.provider_in(packet, verdict)
        return verdict

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict:
        """Decide, and show it."""
        verdict = self._deciding.from_port(port, frame, now)
        known = self._find_port(port)
        if known is not None:
            self._observer.port_in(known, frame, verdict)
        return verdict

    def from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict:
        """Decide, and show it."""
        verdict = self._deciding.from_site(site, packet, selectors, outer_ecn, now)
        self._observer.site_in(site, packet, verdict)
        return verdict


def observed_sending(
    send: Callable[[E], None], show: Callable[[E, OSError | None], None]
) -> Callable[[E], None]:
    """Return what sends as `send` does, and shows what has been sent, or why it could not be."""

    def sent(emission: E) -> None:
        try:
            send(emission)
        except OSError as error:
            show(emission, error)
            raise
        show(emission, None)

    return sent


def observed_ports(
    send: Callable[[ToPort], None], find_port: FindPort, observer: Observer
) -> Callable[[ToPort], None]:
    """Return what gives ports their frames as `send` does, and shows it."""

    def show(frame: ToPort, lost: OSError | None) -> None:
        port = find_port(frame.port)
        if port is not None:
            observer.port_out(port, frame, lost)

    return observed_sending(send, show)


def observed_sealing(seal: Seal, observer: Observer) -> Seal:
    """Return what encrypts as `seal` does, and shows it."""

    def sealed(site: SiteKey, facts: PacketFacts, packet: bytes, now: float) -> Sealed | EspDrop:
        result = seal(site, facts, packet, now)
        observer.site_out(site, packet, result)
        return result

    return sealed


def observed_opening(
    open_untrusted: Open, site_of_untrusted: Callable[[bytes], SiteKey | None], observer: Observer
) -> Open:
    """Return what decrypts as `open_untrusted` does, and shows it."""

    def opened_untrusted(path: Path, packet: bytes, ecn: int, now: float) -> Opened | EspDrop:
        result = open_untrusted(path, packet, ecn, now)
        observer.esp_in(site_of_untrusted(packet), path, packet, ecn, result)
        return result

    return opened_untrusted
