"""The local socket by which the command line asks a running appliance: one question a connection, in JSON.

It lies in the appliance's state folder and is its owner's alone. The question is one line. The
answer is one line, after one for each thing that a stream tells.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.operating.commands import OWNER, Commands, NotAllowed, Stream, carry_out
from policies.errors import ConfigurationError, Problem, Unanswered

LONGEST_QUESTION = 4096
PATIENCE = 10.0  # seconds for a question to arrive and its answer to leave
MOST_AT_ONCE = 16
MOST_FOLLOWED = 16
"""Streams. They last, and would lock out whoever asks if they counted among what is answered at once."""

# Seconds that an answer is waited for: a reload of a large network takes some.
ANSWERED_WITHIN = 60.0


class Question(msgspec.Struct, frozen=True):
    """What the command line asks."""

    command: str
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it is answered: a result, or what is wrong; or, while `is_more`, something that a stream tells."""

    result: Any = None
    problems: list[Problem] = []
    is_more: bool = False


def socket_path(state: Path, name: str) -> Path:
    """Where the appliance of this name and state folder listens."""
    return state / f"{name}.sock"


def ask(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Ask a running appliance, and return its result.

    Raises Unanswered where none listens, ConfigurationError where it says what is wrong.
    """
    result = None
    for answer in _answers(path, command, arguments or {}, ANSWERED_WITHIN):
        result = answer.result
    return result


def follow(path: Path, command: str, arguments: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Ask a running appliance for a stream, and yield what it tells. Raises as `ask` does."""
    for answer in _answers(path, command, arguments or {}, None):
        if answer.is_more:
            yield answer.result


def _answers(
    path: Path, command: str, arguments: Mapping[str, Any], patience: float | None
) -> Iterator[Answer]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(Question(command, dict(arguments))) + b"\n")
            connection.settimeout(patience)
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer = msgspec.json.decode(line, type=Answer)
                    if answer.problems:
                        raise ConfigurationError(answer.problems)
                    yield answer
                    if not answer.is_more:
                        return
        except (FileNotFoundError, ConnectionRefusedError):
            raise Unanswered(f"no appliance listens at {path}: is it running?") from None
        except PermissionError:
            words = "is for its owner alone: run this as root, or as the user of the service"
            raise Unanswered(f"{path} {words}") from None
        except OSError as error:
            raise Unanswered(f"{path}: {error.strerror or error}") from None
        except msgspec.MsgspecError:
            raise Unanswered(f"{path}: the appliance stopped while it answered") from None
    raise Unanswered(f"{path}: the appliance stopped while it answered")


async def serve(
    path: Path,
    commands: Commands,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer the command line until cancelled; started once the socket is open.

    Raises ConfigurationError where the socket cannot be made.
    """
    at_once, followed = trio.Semaphore(MOST_AT_ONCE), trio.Semaphore(MOST_FOLLOWED)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            asked = _Asked(stream, nursery)
            async with at_once:
                question = await _question(asked, commands)
                follows = question is not None and isinstance(commands.get(question.command), Stream)
                if question is not None and not follows:
                    await _answer(asked, question, commands)
            if question is not None and follows:
                await _follow(asked, question, commands, followed)
            nursery.cancel_scope.cancel()

    with _listening(path) as listener:
        task_status.started()
        await trio.serve_listeners(answer, [listener])


class _Asked:
    """One connection, and what is done for whoever asks by it."""

    def __init__(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        self.stream = stream
        self._nursery = nursery

    async def tell(self, item: Any) -> None:
        """Send something that a stream tells."""
        await self.send(Answer(result=item, is_more=True))

    async def send(self, answer: Answer) -> None:
        """Send one line; if nobody reads it, end what is done for them."""
        with trio.move_on_after(PATIENCE), suppress(trio.BrokenResourceError):
            await self.stream.send_all(msgspec.json.encode(answer) + b"\n")
            return
        self._leave()
        await trio.lowlevel.checkpoint()

    def watch(self) -> None:
        """End a stream as soon as its asker has gone."""
        self._nursery.start_soon(self._until_left)

    async def _until_left(self) -> None:
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(LONGEST_QUESTION):
                continue
        self._leave()

    def _leave(self) -> None:
        self._nursery.cancel_scope.cancel()


async def _question(asked: _Asked, commands: Commands) -> Question | None:
    """Read the question; where it is none, say so."""
    question = None
    with trio.move_on_after(PATIENCE), suppress(trio.BrokenResourceError):
        question = await _read_question(asked.stream)
    if question is None:
        known = f"one line of JSON is wanted; the commands are: {', '.join(sorted(commands))}"
        await asked.send(Answer(problems=[Problem("", known)]))
    return question


async def _follow(asked: _Asked, question: Question, commands: Commands, followed: trio.Semaphore) -> None:
    try:
        followed.acquire_nowait()
    except trio.WouldBlock:
        words = f"{question.command}: {MOST_FOLLOWED} others are followed already; end one of them"
        await asked.send(Answer(problems=[Problem("", words)]))
        return
    try:
        asked.watch()
        await _answer(asked, question, commands)
    finally:
        followed.release()


async def _answer(asked: _Asked, question: Question, commands: Commands) -> None:
    try:
        result = await carry_out(commands, OWNER, question.command, question.arguments, asked.tell)
        answer = Answer(result)
    except ConfigurationError as error:
        answer = Answer(problems=list(error.problems))
    except NotAllowed as error:
        answer = Answer(problems=[Problem("", str(error))])
    await asked.send(answer)


async def _read_question(stream: trio.SocketStream) -> Question | None:
    octets = b""
    while b"\n" not in octets and len(octets) <= LONGEST_QUESTION:
        received = await stream.receive_some(LONGEST_QUESTION)
        if not received:
            break
        octets += received
    try:
        return msgspec.json.decode(octets, type=Question)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


@contextmanager
def _listening(path: Path) -> Iterator[trio.SocketListener]:
    """Open the socket, and remove it in the end. One that nobody listens at is left from a crash."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.is_socket() and not _is_alive(path):
                path.unlink()
            before = os.umask(0o177)
            try:
                opened.bind(str(path))
            finally:
                os.umask(before)
            opened.listen(MOST_AT_ONCE)
        except OSError as error:
            problem = Problem("appliance.state", f"no control socket at {path}: {error.strerror or error}")
            raise ConfigurationError([problem]) from None
        try:
            yield trio.SocketListener(trio.socket.from_stdlib_socket(opened))
        finally:
            path.unlink(missing_ok=True)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
