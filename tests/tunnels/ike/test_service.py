from __future__ import annotations

import trio
import trio.testing

from tests.tunnels.ike.policies import LEFT, RIGHT, policy
from tunnels.effects import Effect, Path, SendDatagram, SiteKey, SiteUp
from tunnels.ike.liveness import Traffic
from tunnels.ike.service import GOODBYE, IkeService


def no_traffic(_site: SiteKey) -> Traffic:
    return Traffic.none()


class Ends:
    """Two services joined by what they ask to be sent, which arrives at once unless the link is cut."""

    def __init__(self) -> None:
        self.is_cut = False
        self.effects: list[tuple[float, Effect]] = []
        self.services = {
            LEFT: IkeService(no_traffic, self.carry_out),
            RIGHT: IkeService(no_traffic, self.carry_out),
        }
        self._sends, self._receives = trio.open_memory_channel[SendDatagram](1000)

    def carry_out(self, effect: Effect) -> None:
        self.effects.append((trio.current_time(), effect))
        if isinstance(effect, SendDatagram) and not self.is_cut:
            self._sends.send_nowait(effect)

    async def deliver(self) -> None:
        async for sent in self._receives:
            there = Path(sent.path.remote, sent.path.local)
            self.services[there.local.address].receive_untrusted(there, sent.message)

    async def run(self, nursery: trio.Nursery) -> None:
        for task in (self.deliver, *(each.run for each in self.services.values())):
            nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()

    async def come_up(self, nursery: trio.Nursery) -> None:
        await self.run(nursery)
        self.services[RIGHT].configure([policy(is_left=False)])
        self.services[LEFT].configure([policy()])
        await trio.sleep(1)

    def times(self, kind: type[SendDatagram | SiteUp]) -> list[float]:
        return [when for when, effect in self.effects if isinstance(effect, kind)]


def test_unanswered_message_is_repeated_when_its_time_has_come() -> None:
    async def main() -> None:
        ends = Ends()
        ends.is_cut = True
        async with trio.open_nursery() as nursery:
            await ends.run(nursery)
            began = trio.current_time()
            ends.services[LEFT].configure([policy()])
            await trio.sleep(4)
            nursery.cancel_scope.cancel()
        assert [when - began for when in ends.times(SendDatagram)] == [0, 0.5, 1.5, 3.5]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_services_come_up_and_say_goodbye_to_each_other() -> None:
    async def main() -> None:
        ends = Ends()
        async with trio.open_nursery() as nursery:
            await ends.come_up(nursery)
            assert len(ends.times(SiteUp)) == 2
            began = trio.current_time()
            await ends.services[LEFT].say_goodbye()
            assert trio.current_time() == began
            (peer,) = ends.services[RIGHT].endpoint.peers.values()
            assert peer.session is None
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_peer_that_does_not_answer_a_goodbye_is_not_waited_for_long() -> None:
    async def main() -> None:
        ends = Ends()
        async with trio.open_nursery() as nursery:
            await ends.come_up(nursery)
            ends.is_cut = True
            began = trio.current_time()
            await ends.services[LEFT].say_goodbye()
            assert trio.current_time() - began == GOODBYE
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
