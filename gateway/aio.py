"""The one asyncio thread, and the only seam between asyncio and trio.

Each side keeps its own rules. A function that trio awaits there is an asyncio task, and one that
asyncio awaits here a trio task: cancelling the one cancels the other, and nobody goes on before it
has ended. What one side tells the other without waiting is done in the order in which it was told.

Nothing fails unheard. An awaited function's exception is raised where it is awaited. One of
a function that nobody waits for ends the whole block, as in a nursery. What asyncio itself
reports (a connection's fault, a forgotten task's exception) is logged: a peer can cause that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, TypeVar

import trio

from gateway.turns import Courteous, Waiting

log = logging.getLogger("isthmus.aio")

T = TypeVar("T")

MOST_TOLD = 32
"""Things that wait for whoever follows a function; the teller then waits, too."""

UNHEARD = "functions failed that nobody waits for"


@asynccontextmanager
async def event_loop() -> AsyncIterator[EventLoop]:
    """Run an asyncio loop in a thread of its own, for as long as the block lasts.

    Leaving cancels whatever still runs there, waits for its end and for the thread's.
    """
    loop = EventLoop()
    try:
        with trio.CancelScope() as scope:
            loop.start(scope)
            try:
                yield loop
            finally:
                with trio.CancelScope(shield=True):
                    await loop.stop()
    except BaseException as error:
        if not loop.failures:
            raise
        raise BaseExceptionGroup(UNHEARD, [error, *loop.failures]) from None
    if loop.failures:
        raise BaseExceptionGroup(UNHEARD, loop.failures)


class EventLoop:
    """The asyncio loop as trio sees it. Made by `event_loop`; unless said otherwise, for the trio thread."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self._token = trio.lowlevel.current_trio_token()
        self._trio_waits = Waiting()
        self._loop = asyncio.SelectorEventLoop(Courteous(self._trio_waits))
        self._loop.set_exception_handler(_report)
        self._told_to_stop = self._loop.create_future()
        self._thread = threading.Thread(target=self._serve, name="asyncio", daemon=True)
        self._scope: trio.CancelScope | None = None
        self._calls: set[_Call] = set()
        self._is_closed = False
        self._ended = trio.Event()

    async def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a function on the asyncio thread, and return or raise what it does.

        Cancelled, it cancels the asyncio task and waits until that has ended: if it ended well
        nevertheless, its result is returned. Raises trio.ClosedResourceError once the block is left.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        call = _Call(trio.lowlevel.current_task())

        def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            call.raise_cancel = raise_cancel
            with suppress(trio.ClosedResourceError):  # then all tasks there are cancelled already
                self._send(call.cancel)
            return trio.lowlevel.Abort.FAILED

        self._send(self._begin, call, function, args)
        self._calls.add(call)
        await trio.lowlevel.wait_task_rescheduled(abort)
        error, call.error = call.error, None
        try:
            if error is None:
                value: T = call.value
                return value
            if not isinstance(error, asyncio.CancelledError):
                raise error
            if call.raise_cancel is not None:
                call.raise_cancel()
            if self._is_closed:
                raise trio.ClosedResourceError("the asyncio loop was left meanwhile")
            raise RuntimeError("the asyncio task was cancelled by another one") from error
        finally:
            del error  # an exception that knows the frame that knows it is garbage for the collector

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called on the asyncio thread, after those that it was given before.

        Raises trio.ClosedResourceError once the block is left.
        """
        self._send(self._call, function, args)

    def to_trio(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called on the trio thread, after those told before. For the asyncio thread.

        The queue has no bound, since a callback cannot wait: whoever tells much tells it in batches.
        Everything that is told before the block is left is done before it is left.
        """
        self._token.run_sync_soon(self._call_here, function, args)

    def start(self, scope: trio.CancelScope) -> None:
        """Start the thread. A failure that nobody waits for cancels the scope."""
        self._scope = scope
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise
        trio.lowlevel.add_instrument(self._trio_waits)

    async def stop(self) -> None:
        """Cancel what runs there, and wait for the end of it and of the thread."""
        if not self._is_closed:
            self._send(self._tell_to_stop)
            self._is_closed = True
        await self._ended.wait()
        self._thread.join()  # the very last that the thread did was to say so
        trio.lowlevel.remove_instrument(self._trio_waits)

    def _send(self, function: Callable[..., object], *args: Any) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the asyncio loop has been left")
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            raise trio.ClosedResourceError("the asyncio loop has ended") from None

    def _call_here(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        if self._scope is not None:
            self._scope.cancel()

    def _finish(self, call: _Call) -> None:
        if call in self._calls:
            self._calls.remove(call)
            trio.lowlevel.reschedule(call.waiting)

    def _end(self) -> None:
        """Let go of whoever still waits for a loop that has ended: it broke before it could begin theirs."""
        self._is_closed = True
        for call in tuple(self._calls):
            call.error = asyncio.CancelledError()
            self._finish(call)
        self._ended.set()

    def _begin_inquiry(
        self, inquiry: _Inquiry, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        trio.lowlevel.spawn_system_task(self._answer, inquiry, function, args)

    async def _answer(
        self, inquiry: _Inquiry, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        """Await a function for asyncio. Whatever it raises is asyncio's."""
        value, error = None, None
        with inquiry.scope:
            try:
                value = await function(*args)
            except Exception as raised:
                error = raised
        with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
            self._loop.call_soon_threadsafe(inquiry.finish, value, error)

    # From here on, the asyncio thread.

    async def ask(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a function on the trio thread, and return or raise what it does. For the asyncio thread.

        Cancelled, it cancels what trio does and waits until that has ended.
        """
        inquiry = _Inquiry(self._loop.create_future())
        self.to_trio(self._begin_inquiry, inquiry, function, args)
        try:
            await asyncio.wait([inquiry.future])
        except asyncio.CancelledError:
            self.to_trio(inquiry.scope.cancel)
            await asyncio.wait([inquiry.future])
            raise
        answer: T = inquiry.future.result()
        return answer

    async def follow(
        self, function: Callable[..., Awaitable[Any]], *args: Any
    ) -> AsyncGenerator[list[Any], None]:
        """Await on the trio thread a function that tells one thing after another; yield these in lists.

        The function's last argument is what it tells by: awaited with a thing, that comes back once there
        is room for the next, so that whoever follows slowly slows it down. What the function raises is
        raised here. Whoever no longer follows closes the iterator: it cancels what trio does, and waits
        until that has ended. For the asyncio thread.
        """
        told = _Told(self._loop, self.to_trio)
        asking = asyncio.create_task(self.ask(function, *args, told.tell))
        asking.add_done_callback(lambda _task: told.bell.set())
        try:
            while True:
                is_done = asking.done()
                told.bell.clear()
                if things := told.take():
                    yield things
                elif is_done:
                    await asking
                    return
                else:
                    await told.bell.wait()
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled():
                asking.exception()

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._until_told_to_stop())
        except BaseException as error:
            self.to_trio(self._fail, error)
        finally:
            self.to_trio(self._end)

    async def _until_told_to_stop(self) -> None:
        await self._told_to_stop
        # What is cancelled may begin something new in its last moments.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            for task in others:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.to_trio(self._fail, error)

    def _tell_to_stop(self) -> None:
        self._told_to_stop.set_result(None)

    def _begin(self, call: _Call, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        call.task = self._loop.create_task(call.carry_out(function, args))
        call.task.add_done_callback(lambda _task: self.to_trio(self._finish, call))

    def _call(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            function(*args)
        except BaseException as error:
            self.to_trio(self._fail, error)


class _Call:
    """One function that trio awaits on the asyncio thread."""

    def __init__(self, waiting: trio.lowlevel.Task) -> None:
        self.waiting = waiting
        self.raise_cancel: Callable[[], NoReturn] | None = None
        self.task: asyncio.Task[None] | None = None
        self.value: Any = None
        # A task that is cancelled before its first step never comes to say so itself.
        self.error: BaseException | None = asyncio.CancelledError()

    async def carry_out(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        """Await it, and keep what it came to: KeyboardInterrupt and SystemExit would end the loop itself."""
        try:
            self.value = await function(*args)
            self.error = None
        except BaseException as error:
            self.error = error

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class _Inquiry:
    """One function that asyncio awaits on the trio thread."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.scope = trio.CancelScope()

    def finish(self, value: Any, error: Exception | None) -> None:
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(value)


class _Told:
    """What trio has told and asyncio has not yet taken: so many things, and then whoever tells them waits."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, to_trio: Callable[[Callable[[], object]], object]
    ) -> None:
        self.bell = asyncio.Event()
        self._loop = loop
        self._to_trio = to_trio
        self._things: deque[Any] = deque()
        self._is_ringing = False
        self._room = trio.Event()

    async def tell(self, thing: Any) -> None:
        """Tell one thing. For the trio thread."""
        await trio.lowlevel.checkpoint()
        while len(self._things) >= MOST_TOLD:
            self._room = trio.Event()
            await self._room.wait()
        self._things.append(thing)
        if not self._is_ringing:
            self._is_ringing = True
            with suppress(RuntimeError):  # the loop has ended, and this is about to be cancelled
                self._loop.call_soon_threadsafe(self.bell.set)

    def take(self) -> list[Any]:
        """Return all that has been told. For the asyncio thread."""
        self._is_ringing = False
        things = [self._things.popleft() for _ in range(len(self._things))]
        if things:
            self._to_trio(self._make_room)
        return things

    def _make_room(self) -> None:
        self._room.set()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error(
        "%s",
        context.get("message", "the asyncio loop reports an error"),
        exc_info=context.get("exception"),
        extra={"event": "fault"},
    )
