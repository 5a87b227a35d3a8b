"""In whatever order things happen to it, a node's leasing stays bounded, never spins, and comes to rest."""

from __future__ import annotations

import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.forwarding.directory import DeleteLease, Directory, Put, PutLease
from gateway.host.leasing import (
    ASKED_FOR,
    LEASE_IDLE,
    MOST_UNDER_WAY,
    MOST_WAITING,
    REFUSED_FOR,
    Apply,
    Ask,
    Effect,
    Leasing,
    Return,
)
from gateway.host.uses import Key
from gateway.lookup.outcomes import WhyNoLease
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import Lease, LookupRecord, Translation
from tests.gateway.host.leased import DB, MAC, OTHER_POOL, WEB, ca, network, pa

NUMBERS = st.integers(min_value=1, max_value=6)


class Orders(RuleBasedStateMachine):
    """A gateway, a feed and a lookup service that have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.revision = 0
        self.directory = Directory()
        self.leasing = Leasing("edge-1", self.directory.find)
        self.asked: list[Key] = []
        self.returning: list[tuple[ProviderAddress, ...]] = []
        self.pauses: dict[Key, float] = {}

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask(vsid, address):
                    assert (vsid, address) not in self.asked
                    assert self.now >= self.pauses.get((vsid, address), 0.0)
                    self.asked.append((vsid, address))
                case Return(pas):
                    assert pas
                    self.returning.append(pas)
                case Apply(change):
                    self.directory.apply(change)

    def over(self, index: int) -> Key:
        key = self.asked.pop(index % len(self.asked))
        self.pauses[key] = self.now + ASKED_FOR
        return key

    @rule(number=NUMBERS, vsid=st.sampled_from((WEB, DB)))
    def want(self, number: int, vsid: int) -> None:
        self.leasing.wanted(WEB if vsid == WEB else DB, ca(number), self.now)
        self.do(self.leasing.handle_timeout(self.now))

    @rule(start=st.integers(min_value=0, max_value=1000))
    def scan(self, start: int) -> None:
        for number in range(start, start + 400):
            self.leasing.wanted(WEB, ca(number), self.now)

    @precondition(lambda self: self.asked)
    @rule(index=st.integers(min_value=0), number=NUMBERS, ahead=st.integers(min_value=-2, max_value=4))
    def answer(self, index: int, number: int, ahead: int) -> None:
        key = self.over(index)
        lease = Lease(pa(number), *key, "edge-1", max(0, self.revision + ahead))
        self.do(self.leasing.answered(key, lease, self.now))

    @precondition(lambda self: self.asked)
    @rule(index=st.integers(min_value=0), reason=st.sampled_from((*WhyNoLease, None)))
    def answer_nothing(self, index: int, reason: WhyNoLease | None) -> None:
        key = self.over(index)
        if reason is None:
            self.do(self.leasing.failed(key, self.now))
        else:
            self.do(self.leasing.refused(key, reason, self.now))

    @rule(number=NUMBERS, whose=NUMBERS, node=st.sampled_from(("edge-1", "edge-2")))
    def feed_lease(self, number: int, whose: int, node: str) -> None:
        change = PutLease(Lease(pa(number), WEB, ca(whose), node, self.revision))
        self.directory.apply(change)
        self.leasing.changed(change, self.now)

    @rule(number=NUMBERS)
    def feed_end(self, number: int) -> None:
        self.directory.apply(DeleteLease(pa(number)))
        self.leasing.changed(DeleteLease(pa(number)), self.now)

    @rule(number=NUMBERS, translation=st.sampled_from(Translation))
    def feed_record(self, number: int, translation: Translation) -> None:
        change = Put(
            LookupRecord(WEB, ca(number), MAC, pa(100 + number), "hv1", translation, 1, self.revision)
        )
        self.directory.apply(change)
        self.leasing.changed(change, self.now)

    @rule(steps=st.integers(min_value=-2, max_value=4))
    def feed_applied(self, steps: int) -> None:
        self.revision = max(0, self.revision + steps)
        self.do(self.leasing.applied(self.revision, self.now))

    @rule(is_another=st.booleans())
    def configure(self, is_another: bool) -> None:
        self.do(self.leasing.configure(network(OTHER_POOL) if is_another else network(), self.now))

    @rule(numbers=st.sets(NUMBERS))
    def sample(self, numbers: set[int]) -> None:
        self.leasing.used([pa(number) for number in numbers], self.now)
        self.do(self.leasing.expire(self.now))

    @precondition(lambda self: self.returning)
    @rule(is_done=st.booleans())
    def end_return(self, is_done: bool) -> None:
        self.returning.pop()
        end = self.leasing.returned if is_done else self.leasing.return_failed
        self.do(end(self.now))

    @rule()
    def reconnect(self) -> None:
        self.do(self.leasing.reconnected(self.now))

    @rule(seconds=st.sampled_from((0.1, 1.0, 10.0, 60.0, LEASE_IDLE)))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := max(self.leasing.deadline, self.now)) <= until:
            self.now = due
            self.do(self.leasing.handle_timeout(self.now))
            assert self.leasing.deadline > self.now
        self.now = until

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.asked) <= MOST_UNDER_WAY
        assert len(self.leasing._waiting) <= 2 * MOST_WAITING + 4
        assert len(self.returning) <= 1

    @invariant()
    def it_knows_its_leases_and_returns_no_others(self) -> None:
        known = {lease.pa for lease in self.directory.all_leases() if lease.node == "edge-1"}
        assert set(self.leasing._own) == known
        assert set(self.leasing._uses.all()) | set(self.leasing._unused) == known
        assert set(self.leasing._ahead._leases) <= {lease.pa for lease in self.directory.all_leases()}

    def teardown(self) -> None:
        """Let everybody be answered, and all be used no more: then only its own CAs are left, or wanted."""
        self.configure(is_another=False)
        for _ in range(60):
            self.wait(REFUSED_FOR)
            while self.asked:
                self.answer_nothing(0, WhyNoLease.UNKNOWN)
            self.sample(set())
            for pas in self.returning[:]:
                for each in pas:
                    self.directory.apply(DeleteLease(each))
                    self.leasing.changed(DeleteLease(each), self.now)
                self.end_return(is_done=True)
        assert not self.leasing._waiting
        own = {lease.ca for lease in self.leasing._own.values()}
        assert own <= {CustomerAddress.parse("10.0.1.1"), CustomerAddress.parse("10.0.2.1")}
        assert self.leasing.deadline < math.inf or len(own) == 2


TestOrders = Orders.TestCase
