"""Requests and responses of one IKE SA: numbered, repeated, answered once (RFC 7296 sections 2.1 to 2.3)."""

from __future__ import annotations

from typing import Protocol

from tunnels.effects import Effect
from tunnels.ike.constants import ExchangeType
from tunnels.ike.payloads import Payload


class Task(Protocol):
    """One request of ours. Its turn comes when the one before it has been answered: the window is 1."""

    @property
    def exchange(self) -> ExchangeType: ...

    def request(self, now: float) -> tuple[Payload, ...] | None:
        """Say what to ask, just before it is sent; None when it is no longer needed."""

    def answered(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Take the answer, which is authenticated and decoded but may say anything."""
