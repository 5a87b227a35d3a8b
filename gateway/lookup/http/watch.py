"""One watch: what has changed since, as JSON lines, until whoever reads it goes or is too slow.

It begins where the reader says, or with everything there is. Each write ends with a progress
line, so a reader that keeps the last of those resumes without a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from aiohttp import web

from gateway.http.calls import read_number
from gateway.http.headers import protect
from gateway.http.principals import Credentials, Unauthenticated
from gateway.http.problems import HttpProblem
from gateway.lookup.entries import NAMED_KINDS, Kind, NamedKey, RecordKey, Stored
from gateway.lookup.http.calls import LookupCall, read_vsid
from gateway.lookup.http.watches import Filter, Vsids
from gateway.lookup.limits import LARGEST_NUMBER
from gateway.lookup.records_wire import deletion, lease_line, line, progress, record_line, resync
from gateway.lookup.replica import Replica
from gateway.lookup.visibility import View, vsids_of
from policies.addresses import CustomerAddress, Vsid
from policies.model import LookupRecord, Translation
from policies.services import Role

CONTENT_TYPE = "application/jsonl"
LINES_AT_ONCE = 500
CATCHING_UP = 2.0
"""Seconds that a reader who is ahead of this node waits for it."""


class FellBehind(Exception):
    """The changes that a watch has not told yet are no longer here."""


async def watch(call: LookupCall) -> web.StreamResponse:
    """Tell what changes."""
    query = call.query("tenant", "vsid", "kind", "only", "from")
    wanted = Filter(
        tenant=query.get("tenant"),
        vsid=read_vsid("vsid", query["vsid"]) if "vsid" in query else None,
        kind=_kind(query["kind"]) if "kind" in query else None,
    )
    resume = read_number("from", query["from"], 0, LARGEST_NUMBER) if "from" in query else None
    only_used = "only" in query
    if only_used and (query["only"] != "used" or call.principal.role is not Role.HOST):
        raise HttpProblem(400, "only: used is wanted, by a host")
    call.must_know()
    if call.request.method == "HEAD":
        return web.Response(headers={"Content-Type": CONTENT_TYPE})
    await _catch_up(call.replica, resume)
    one = Watch(call, wanted, only_used=only_used)
    call.watches.enter(call.principal, one)
    follows = call.principal.role in {Role.HOST, Role.GATEWAY}
    try:
        if follows:
            call.authority.followers.connect(call.principal, one)
        return await one.run(resume)
    finally:
        call.watches.leave(call.principal, one)
        if follows:
            call.authority.followers.disconnect(call.principal, one)


async def _catch_up(replica: Replica, resume: int | None) -> None:
    """Wait for this node to be where a reader is already, by another one. Raises HttpProblem.

    A node that follows its store and is behind all the same tells everything: that store
    has been restored.
    """
    if resume is None or await replica.reached(resume, CATCHING_UP) or replica.stale_since is None:
        return
    raise HttpProblem(503, "this node is behind, and its store is away", headers={"Retry-After": "1"})


class Watch:
    """A stream of lines to one reader, and what it is to be told."""

    def __init__(self, call: LookupCall, wanted: Filter, *, only_used: bool) -> None:
        self.writing_since: float | None = None
        self._clock = asyncio.get_running_loop().time
        self.begun = self.last_written = self._clock()
        self._call = call
        self._replica = call.replica
        self._followers = call.authority.followers
        self._name = call.principal.name
        # By which its reader was last known: none yet, for they may be others since the request came.
        self._credentials: Credentials | None = None
        self._watches = call.watches
        self._wanted = wanted
        self._only_used = only_used
        self._network = call.replica.network
        self._view = call.view
        self._vsids = self._chosen()
        self._position = 0
        self._is_heartbeat = False
        self._bell = asyncio.Event()
        # Records to be told as they are now, whether they have changed or not.
        self._to_teach: dict[RecordKey, None] = {}
        # Records that were rewritten when they were told last: of these, what becomes of them is told too.
        self._rewritten: set[RecordKey] = set()
        self._response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        protect(self._response)

    @property
    def is_gone(self) -> bool:
        """Whether nobody reads it any more."""
        transport = self._call.request.transport
        return transport is None or transport.is_closing()

    @property
    def is_known(self) -> bool:
        """Whether what its reader has shown still says who that is."""
        door = self._call.node.door
        credentials = door.credentials
        if credentials is not self._credentials:
            try:
                if door.identify(self._call.request) != self._call.principal:
                    return False
            except Unauthenticated:
                return False
            self._credentials = credentials
        return True

    def wake(self, *, is_heartbeat: bool = False) -> None:
        """Let it look for what there is to tell; and tell where it is, if that is nothing."""
        self._is_heartbeat |= is_heartbeat
        self._bell.set()

    def cut(self) -> None:
        """Close its connection at once: what it has not read is of no use."""
        transport = self._call.request.transport
        if transport is not None:
            transport.abort()

    def covers(self, key: RecordKey) -> bool:
        """Whether changes of a record are told on it."""
        if self._wanted.kind not in {None, Kind.RECORD}:
            return False
        if self._vsids is not None and key.vsid not in self._vsids:
            return False
        if not self._only_used or key in self._followers.taught(self._name) or key in self._rewritten:
            return True
        record = self._replica.find(key.vsid, key.ca)
        return record is not None and self._needs(record)

    def teach(self, key: RecordKey) -> None:
        """Tell soon how a record is now, or that it is no longer told."""
        if self._only_used:
            self._to_teach[key] = None
            self._bell.set()

    async def run(self, resume: int | None) -> web.StreamResponse:
        """Write until the reader goes, or falls behind."""
        await self._response.prepare(self._call.request)
        # What a host uses it may have been taught elsewhere meanwhile: only all of it is right.
        position = None if resume is None or self._only_used else self._replica.position_after(resume)
        try:
            if position is None:
                await self._tell_everything()
            else:
                self._position = position
                self._is_heartbeat = True
            while not self._watches.is_closing:
                await self._tell_news()
                await self._bell.wait()
                self._bell.clear()
        except (FellBehind, ConnectionError):
            self.cut()
        return self._response

    async def _tell_news(self) -> None:
        if self._network is not self._replica.network:
            await self._look_anew()
        if self._to_teach:
            keys, self._to_teach = self._to_teach, {}
            await self._write(b"".join(self._taught(keys)))
            # Where this watch is, is said behind the changes that still wait.
            self._is_heartbeat = True
        while (end := self._replica.history.position) > self._position:
            changes = self._changes()
            is_last = self._position + len(changes) == end
            lines = self._lines(changes)
            self._position += len(changes)
            if lines:
                revision = changes[-1].revision
                if is_last:
                    lines += progress(self._replica.complete)
                await self._write(lines)
                self._followers.told(self._name, revision)
        if self._is_heartbeat:
            self._is_heartbeat = False
            await self._write(progress(self._replica.complete))

    def _changes(self) -> Sequence[Stored]:
        changes = self._replica.history.since(self._position)
        if changes is None:
            raise FellBehind
        return changes[:LINES_AT_ONCE]

    def _lines(self, changes: Sequence[Stored]) -> bytes:
        if not self._only_used:
            return self._watches.lines.chunk(changes, self._position, self._view, self._wanted, self._vsids)
        return b"".join(self._used(changes))

    def _used(self, changes: Sequence[Stored]) -> Iterator[bytes]:
        taught = self._followers.taught(self._name)
        for place, change in enumerate(changes, self._position):
            key, record = change.key, change.record
            is_told = key in taught or key in self._rewritten or (record is not None and self._needs(record))
            if isinstance(key, RecordKey) and not is_told:
                continue
            shown = self._view.entry(change)
            if shown is not None and self._wanted.wants(shown, self._vsids):
                self._note(change)
                yield self._watches.lines.one(shown, place, self._view)

    def _taught(self, keys: dict[RecordKey, None]) -> Iterator[bytes]:
        for key in keys:
            record = self._replica.find(key.vsid, key.ca)
            if record is None:
                yield deletion(key, self._replica.revision)
            elif self.covers(key):
                yield record_line(record)
            else:
                # No later than the record, so that it can be taught again.
                yield deletion(key, record.revision)

    async def _tell_everything(self) -> None:
        """Tell all there is, then what has changed meanwhile, then that this was all."""
        self._position = self._replica.whole_position
        await self._write(resync(self._replica.complete))
        await self._write(b"".join(self._named_lines()))
        if self._wanted.kind in {None, Kind.RECORD}:
            for vsid in self._replica.vsids():
                if self._vsids is None or vsid in self._vsids:
                    await self._tell_subnet(vsid)
        if self._wanted.kind in {None, Kind.LEASE}:
            for vsid in self._replica.granted.leased_vsids():
                if self._vsids is None or vsid in self._vsids:
                    await self._tell_leases(vsid)
        while (end := self._replica.history.position) > self._position:
            changes = self._changes()
            self._position += len(changes)
            lines = b"".join(self._as_they_are(changes))
            if lines and self._position < end:
                await self._write(lines)
            elif lines:
                await self._write(lines + progress(self._replica.complete))
                self._followers.told(self._name, self._replica.revision)
                return
        self._followers.told(self._name, self._replica.revision)
        await self._write(progress(self._replica.complete))

    async def _tell_subnet(self, vsid: Vsid) -> None:
        after: CustomerAddress | None = None
        while records := self._replica.records(vsid, after, LINES_AT_ONCE):
            after = records[-1].ca
            if self._only_used:
                records = [record for record in records if self._uses(record)]
            if records:
                await self._write(b"".join(map(record_line, records)))
            await asyncio.sleep(0)

    async def _tell_leases(self, vsid: Vsid) -> None:
        leases = self._replica.granted.leases_in(vsid)
        for start in range(0, len(leases), LINES_AT_ONCE):
            await self._write(b"".join(map(lease_line, leases[start : start + LINES_AT_ONCE])))
            await asyncio.sleep(0)

    def _uses(self, record: LookupRecord) -> bool:
        key = RecordKey(record.vsid, record.ca)
        if record.translation is Translation.REWRITE:
            self._rewritten.add(key)
        elif record.host == self._name:
            self._followers.use(self._name, key)
        return self._needs(record) or key in self._followers.taught(self._name)

    def _needs(self, record: LookupRecord) -> bool:
        """Whether a host is told of a record untaught: it is its own, or rewritten.

        A packet from a provider address does not say whose that is, so nobody could be asked for the record.
        """
        return record.host == self._name or record.translation is Translation.REWRITE

    def _note(self, change: Stored) -> None:
        """Take note of what has been told of a record, for what follows of it."""
        key, record = change.key, change.record
        if not self._only_used or not isinstance(key, RecordKey):
            return
        if record is not None and record.translation is Translation.REWRITE:
            self._rewritten.add(key)
            return
        self._rewritten.discard(key)
        # Its own record is told on when it moves away: its old host redirects.
        if record is not None or key in self._followers.taught(self._name):
            self._followers.use(self._name, key)

    def _named_lines(self) -> Iterator[bytes]:
        for kind in NAMED_KINDS:
            for entry in self._replica.entries(kind):
                shown = self._view.entry(entry)
                if shown is not None and self._wanted.wants(shown, self._vsids):
                    yield line(shown)

    def _as_they_are(self, changes: Sequence[Stored]) -> Iterator[bytes]:
        """The lines of those changes behind which there is no other: the rest has been told already."""
        for change in changes:
            now = self._replica.entry(change.key)
            if (now.revision if now is not None else None) == (
                change.revision if change.value is not None else None
            ):
                shown = self._view.entry(change)
                if (
                    shown is not None
                    and self._wanted.wants(shown, self._vsids)
                    and self._is_interesting(change)
                ):
                    self._note(change)
                    yield line(shown)

    def _is_interesting(self, change: Stored) -> bool:
        return not self._only_used or not isinstance(change.key, RecordKey) or self.covers(change.key)

    async def _look_anew(self) -> None:
        """After a change of the network, tell anew what is seen if its records differ, else the hosts."""
        self._network = self._replica.network
        old, self._view = self._view, self._call.view
        old_vsids, self._vsids = self._vsids, self._chosen()
        if old_vsids != self._vsids or old.tenants != self._view.tenants:
            await self._tell_everything()
        elif old.hosts != self._view.hosts and self._wanted in (Filter(), Filter(kind=Kind.HOST)):
            await self._write(b"".join(self._hosts_between(old, self._view)))
            self._is_heartbeat = True

    def _hosts_between(self, old: View, new: View) -> Iterator[bytes]:
        before, after = old.hosts or frozenset(), new.hosts or frozenset()
        for entry in self._replica.entries(Kind.HOST):
            if isinstance(entry.key, NamedKey):
                name = entry.key.name
                if name in after and name not in before:
                    yield line(entry)
                elif name in before and name not in after:
                    yield deletion(entry.key, self._replica.revision)

    def _chosen(self) -> Vsids:
        """The virtual subnets of the records and leases that are asked for and seen; None: all."""
        chosen: Vsids = self._view.vsids
        if self._wanted.vsid is not None:
            only = frozenset({self._wanted.vsid})
            chosen = only if chosen is None else chosen & only
        if self._wanted.tenant is not None:
            of_tenant = vsids_of(self._network, {self._wanted.tenant})
            chosen = of_tenant if chosen is None else chosen & of_tenant
        return chosen

    async def _write(self, lines: bytes) -> None:
        if not lines:
            return
        self.writing_since = self._clock()
        try:
            await self._response.write(lines)
        finally:
            self.writing_since = None
        self.last_written = self._clock()


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise HttpProblem(400, f"kind: one of {', '.join(Kind)} is wanted") from None
