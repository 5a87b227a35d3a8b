"""The configuration taken over while the appliance runs: by difference, whole or not at all, and back again.

Every part that takes a configuration over returns what puts back what was. Where a later part cannot
take its share, the earlier ones are put back; and so is everything that nobody confirms in time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from gateway.changes.difference import Difference, authenticated_again, differences
from gateway.datapath import DataPath
from gateway.operating.commands import Asker, Command, Commands, Nothing
from gateway.operating.configuration import Configuration, ReloadReport
from gateway.sites.policies import Keyring, readable_policies
from policies.errors import ConfigurationError, Problem
from policies.model import Appliance

log = logging.getLogger("isthmus")

LONGEST_TRIAL = 86400
"""Seconds that a configuration may wait to be confirmed."""

READ_WITHIN = 30.0
"""Seconds for a file to be read: nothing is rolled back, confirmed or stopped before that is over."""

MOST_READERS = 4
"""Files that are read at once. One that never comes to its end, as a pipe's, counts for ever."""

MOST_NAMED = 12
"""Differences that one line of the log names."""

Undo = Callable[[], Awaitable[list[str]]]
"""Puts back what was, and returns in words what could not be."""

Take = Callable[[Appliance], Awaitable[Undo]]
"""Takes over a part of a changed configuration. Raises ConfigurationError, and then has changed nothing."""


class Source(Protocol):
    """Where the network comes from, and what carries it."""

    outlasts_us: bool
    """Whether what is taken is still there when this process has ended."""

    async def compared(self, wanted: Appliance) -> tuple[Appliance, Appliance]:
        """Return what runs, and what would if a file was taken, both with their networks.

        Raises ConfigurationError where that cannot be told.
        """
        ...

    async def take(self, wanted: Appliance, keyring: Keyring) -> Undo:
        """Take a file over, with sites' files as a keyring has read them.

        Raises ConfigurationError, and then what was goes on.
        """
        ...


class OwnFile:
    """A network that this node's own file holds, and nobody else."""

    outlasts_us = False

    def __init__(self, appliance: Appliance, path: DataPath, keyring: Keyring) -> None:
        self._running = appliance, keyring
        self._path = path

    @property
    def appliance(self) -> Appliance:
        """The configuration in force, with the network that is decided by."""
        return self._running[0]

    async def start(self) -> None:
        """Take over what the appliance starts with. Raises ConfigurationError."""
        if refused := await self._path.adopt(*self._running):
            raise ConfigurationError(refused)

    async def compared(self, wanted: Appliance) -> tuple[Appliance, Appliance]:
        """Return what runs, and what would."""
        return self._running[0], wanted

    async def take(self, wanted: Appliance, keyring: Keyring) -> Undo:
        """Take a file over. Raises ConfigurationError, and then what was goes on."""
        before = self._running
        if refused := await self._path.adopt(wanted, keyring):
            await self._put_back(before)
            raise ConfigurationError(refused)
        self._running = wanted, keyring

        async def undo() -> list[str]:
            return await self._put_back(before)

        return undo

    async def _put_back(self, before: tuple[Appliance, Keyring]) -> list[str]:
        self._running = before
        try:
            return [str(problem) for problem in await self._path.adopt(*before)]
        except ConfigurationError as error:
            return [str(problem) for problem in error.problems]


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `reload`."""

    confirm: int | None = None
    """Seconds in which it is to be confirmed; None: it is at once."""


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The arguments of `diff`."""

    file: str | None = None
    """The absolute path of a file to be compared with what runs; None: the appliance's own."""


class Reload:
    """Takes changed configurations over. `run` has to run beside it."""

    def __init__(
        self,
        source: Source,
        read: Callable[[Path | None], Appliance],
        keyring: Keyring,
        *,
        wall_clock: Callable[[], float],
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`read` reads and checks a file, or for None the appliance's own; the keyring is the one that runs.

        The clock gives seconds since 1970. `around` is what a reload is done within.
        """
        self._source = source
        self._read = read
        self._keyring = keyring
        self._wall_clock = wall_clock
        self._around = around
        self._parts: list[Take] = []
        self._one_at_a_time = trio.Lock()
        self._readers = trio.CapacityLimiter(MOST_READERS)
        self._undone_by: list[Undo] = []
        self._deadline = math.inf
        self._is_asked = False
        self._woken = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._is_file = Configuration(taken_at=wall_clock())

    def also(self, take: Take) -> None:
        """Have another part take its share of every configuration from now on."""
        self._parts.append(take)

    def commands(self) -> Commands:
        """What can be asked of it."""

        async def diff(_asker: Asker, wanted: Candidate) -> list[Difference]:
            return await self.differences(Path(wanted.file) if wanted.file is not None else None)

        async def reload(_asker: Asker, wanted: Wanted) -> ReloadReport:
            return await self.reload(wanted.confirm)

        async def confirm(_asker: Asker, _wanted: Nothing) -> Configuration:
            return await self.confirm()

        return {
            "diff": Command(diff, Candidate, for_operators=True),
            "reload": Command(reload, Wanted, for_operators=True),
            "confirm": Command(confirm, for_operators=True),
        }

    @property
    def configuration(self) -> Configuration:
        """Which configuration runs."""
        left = None
        if self._undone_by:
            left = max(0.0, self._deadline - trio.current_time())
        return msgspec.structs.replace(self._is_file, rolls_back_in=left)

    def ask(self) -> None:
        """Have `run` reload soon, as for a signal: that confirms nothing, and what is wrong is logged."""
        self._is_asked = True
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is asked, and roll back what nobody confirms in time, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                with trio.move_on_at(self._deadline):
                    await self._woken.wait()
                self._woken = trio.Event()
                if self._is_asked:
                    self._is_asked = False
                    with suppress(ConfigurationError):  # it is logged, and nobody else has asked
                        await self._reload(None, confirms=False)
                async with self._one_at_a_time:
                    if trio.current_time() >= self._deadline:
                        await self._roll_back("nobody has confirmed it")

    async def differences(self, file: Path | None = None) -> list[Difference]:
        """Return what a file would change of what runs. Raises ConfigurationError with all that is wrong."""
        found, _ = await self._compare(await self._read_in_thread(file), Keyring())
        return found

    async def reload(self, confirm: int | None = None) -> ReloadReport:
        """Read the file, and take over what has changed: for some seconds, unless it is confirmed by then.

        Without them, all is confirmed that was not yet. Raises ConfigurationError with
        everything that is wrong, and then nothing has changed.
        """
        if confirm is not None and not 1 <= confirm <= LONGEST_TRIAL:
            raise ConfigurationError(
                [Problem("confirm", f"{confirm} is not from 1 to {LONGEST_TRIAL} seconds")]
            )
        return await self._reload(confirm, confirms=confirm is None)

    async def confirm(self) -> Configuration:
        """Keep what the last reload has taken over. Raises ConfigurationError where nothing waits for it."""
        async with self._one_at_a_time:
            if not self._undone_by:
                why = f": {self._is_file.why}" if self._is_file.why else ""
                raise ConfigurationError([Problem("", f"nothing waits to be confirmed{why}")])
            self._keep()
            log.info("the configuration is confirmed", extra={"event": "reload-confirmed"})
            return self.configuration

    async def leave(self) -> None:
        """The appliance stops: what is not confirmed must not outlast it in a store."""
        async with self._one_at_a_time:
            if self._undone_by and self._source.outlasts_us:
                await self._roll_back("the appliance stops, and nobody has confirmed it")

    async def _reload(self, confirm: int | None, *, confirms: bool) -> ReloadReport:
        """Have it done: to its end, also where whoever has asked goes away meanwhile."""
        if self._nursery is None:
            raise ConfigurationError([Problem("", "the appliance is starting still: ask again in a moment")])
        job = _Job(confirm, confirms=confirms)
        self._nursery.start_soon(self._carry_out, job)
        await job.done.wait()
        return job.result()

    async def _carry_out(self, job: _Job) -> None:
        async with self._one_at_a_time:
            with self._around():
                try:
                    job.report = await self._take(job.confirm, confirms=job.confirms)
                except ConfigurationError as error:
                    self._failed(error)
                    job.error = error
        self._woken.set()
        job.done.set()

    async def _take(self, confirm: int | None, *, confirms: bool) -> ReloadReport:
        wanted, keyring = await self._read_in_thread(None), Keyring()
        found, again = await self._compare(wanted, keyring)
        refused = [
            Problem(each.path, f"has changed, which needs a restart: {each.old} -> {each.new}")
            for each in found
            if each.needs_restart
        ]
        if refused:
            raise ConfigurationError(refused)
        undo = await self._take_whole(wanted, keyring)
        self._is_file = msgspec.structs.replace(
            self._is_file,
            taken_at=self._wall_clock(),
            differs_since=None,
            why="",
            reloads=self._is_file.reloads + 1,
        )
        if confirms:
            self._keep()
        else:
            self._undone_by.append(undo)
            if confirm is not None:
                self._deadline = trio.current_time() + confirm
            elif math.isinf(self._deadline):
                self._keep()  # nothing waited to be confirmed before
        left = self.configuration.rolls_back_in
        words = _in_words(found)
        if left is None:
            log.info("reloaded: %s", words, extra={"event": "reloaded"})
        else:
            log.warning(
                "reloaded, and rolled back in %.0f s unless it is confirmed: %s",
                left,
                words,
                extra={"event": "reload-unconfirmed"},
            )
        return ReloadReport(differences=found, authenticated_again=again, rolls_back_in=left)

    async def _take_whole(self, wanted: Appliance, keyring: Keyring) -> Undo:
        """Have each part take its share, or none."""
        before, taken = self._keyring, [await self._source.take(wanted, keyring)]
        self._keyring = keyring

        async def undo() -> list[str]:
            self._keyring = before
            return [words for each in reversed(taken) for words in await each()]

        try:
            for take in self._parts:
                taken += [await take(wanted)]
        except ConfigurationError as error:
            left = [Problem("", f"not put back: {words}") for words in await undo()]
            raise ConfigurationError([*error.problems, *left]) from None
        return undo

    async def _compare(self, wanted: Appliance, keyring: Keyring) -> tuple[list[Difference], list[str]]:
        before, after = await self._source.compared(wanted)

        def compare() -> tuple[list[Difference], list[str]]:
            old, problems_before = readable_policies(before, {}, self._keyring)
            known = frozenset(problems_before)
            new, problems = readable_policies(after, {}, keyring)
            # A site that is not served as it is keeps nobody from changing the rest.
            if wrong := [problem for problem in problems if problem not in known]:
                raise ConfigurationError(wrong)
            again = [f"{tenant}/{site}" for tenant, site in authenticated_again(old, new)]
            return differences(before, after, old, new), again

        return await trio.to_thread.run_sync(compare)

    async def _read_in_thread(self, file: Path | None) -> Appliance:
        """Read a file, which may be a pipe or on a disk that is gone. Raises ConfigurationError."""
        with trio.move_on_after(READ_WITHIN):
            return await trio.to_thread.run_sync(
                self._read, file, abandon_on_cancel=True, limiter=self._readers
            )
        which = "the file" if file is None else str(file)
        raise ConfigurationError([Problem("", f"{which} could not be read within {READ_WITHIN:g} s")])

    def _keep(self) -> None:
        self._undone_by.clear()
        self._deadline = math.inf
        self._woken.set()

    def _failed(self, error: ConfigurationError) -> None:
        words = "; ".join(map(str, error.problems))
        now = self._wall_clock()
        self._is_file = msgspec.structs.replace(
            self._is_file,
            failures=self._is_file.failures + 1,
            differs_since=self._is_file.differs_since or now,
            why="a reload was refused",
        )
        log.error(
            "the reload is refused, and the configuration before goes on: %s",
            words,
            extra={"event": "reload-failed"},
        )

    async def _roll_back(self, why: str) -> None:
        undone_by, self._undone_by, self._deadline = self._undone_by, [], math.inf
        left: list[str] = []
        for undo in reversed(undone_by):
            left += await undo()
        now = self._wall_clock()
        self._is_file = msgspec.structs.replace(
            self._is_file,
            taken_at=now,
            differs_since=now,
            why=f"it was rolled back: {why}",
            rollbacks=self._is_file.rollbacks + 1,
        )
        log.warning("rolled back: %s", why, extra={"event": "rolled-back"})
        for words in left:
            log.error("not rolled back: %s", words, extra={"event": "rolled-back"})


class _Job:
    """One reload, and what has come of it."""

    def __init__(self, confirm: int | None, *, confirms: bool) -> None:
        self.confirm = confirm
        self.confirms = confirms
        self.done = trio.Event()
        self.report: ReloadReport | None = None
        self.error: ConfigurationError | None = None

    def result(self) -> ReloadReport:
        """Return or raise what has come of it."""
        if self.error is not None:
            raise self.error
        if self.report is None:
            raise RuntimeError("it is not done")
        return self.report


def _in_words(found: list[Difference]) -> str:
    if not found:
        return "nothing has changed"
    more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"{', '.join(f'{each.path} {each.change.value}' for each in found[:MOST_NAMED])}{more}"
