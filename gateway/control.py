"""The local socket by which the command line asks a running appliance: one question a connection, in JSON.

It lies in the appliance's state folder and is its owner's alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from policies.errors import ConfigurationError, Problem, Unanswered

Command = Callable[[], Awaitable[Any]]
"""Answers with plain values. Raises ConfigurationError for what the asker can put right."""

LONGEST_QUESTION = 4096
PATIENCE = 10.0  # seconds for a question to arrive and its answer to leave
MOST_AT_ONCE = 16


class Question(msgspec.Struct, frozen=True):
    """What the command line asks."""

    command: str


class Answer(msgspec.Struct, frozen=True):
    """What it is answered: a result, or what is wrong."""

    result: Any = None
    problems: list[Problem] = []


def socket_path(state: Path, name: str) -> Path:
    """Where the appliance of this name and state folder listens."""
    return state / f"{name}.sock"


def ask(path: Path, command: str) -> Any:
    """Ask a running appliance, and return its result.

    Raises Unanswered where none listens, ConfigurationError where it says what is wrong.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(Question(command)) + b"\n")
            octets = b"".join(iter(lambda: connection.recv(65536), b""))
        except (FileNotFoundError, ConnectionRefusedError):
            raise Unanswered(f"no appliance listens at {path}: is it running?") from None
        except OSError as error:
            raise Unanswered(f"{path}: {error.strerror or error}") from None
    try:
        answer = msgspec.json.decode(octets, type=Answer)
    except msgspec.MsgspecError:
        raise Unanswered(f"{path}: the appliance stopped while it answered") from None
    if answer.problems:
        raise ConfigurationError(answer.problems)
    return answer.result


async def serve(
    path: Path,
    commands: Mapping[str, Command],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer the command line until cancelled; started once the socket is open.

    Raises ConfigurationError where the socket cannot be made.
    """
    limit = trio.Semaphore(MOST_AT_ONCE)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream, limit:
            with trio.move_on_after(PATIENCE), suppress(trio.BrokenResourceError):
                await stream.send_all(msgspec.json.encode(await _answer(stream, commands)) + b"\n")

    with _listening(path) as listener:
        task_status.started()
        await trio.serve_listeners(answer, [listener])


async def _answer(stream: trio.SocketStream, commands: Mapping[str, Command]) -> Answer:
    octets = b""
    while b"\n" not in octets and len(octets) <= LONGEST_QUESTION:
        received = await stream.receive_some(LONGEST_QUESTION)
        if not received:
            break
        octets += received
    try:
        question = msgspec.json.decode(octets, type=Question)
        command = commands[question.command]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        return Answer(problems=[Problem("", f"the appliance knows: {', '.join(commands)}")])
    try:
        return Answer(result=await command())
    except ConfigurationError as error:
        return Answer(problems=list(error.problems))


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
