from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway import control
from gateway.operating.commands import Asker, Command, Commands, Nothing, Stream, Tell
from policies.errors import ConfigurationError, Problem, Unanswered


async def sites(asker: Asker, _wanted: Nothing) -> list[str]:
    return ["red/seattle"] if asker.is_operator else []


async def refuse(_asker: Asker, _wanted: Nothing) -> None:
    raise ConfigurationError([Problem("tenant[0].site[0].ike.psk_file", "is empty")])


async def count(_asker: Asker, _wanted: Nothing, tell: Tell) -> None:
    for number in range(3):
        await tell(number)


async def for_ever(_asker: Asker, _wanted: Nothing, tell: Tell) -> None:
    await tell(0)
    await trio.sleep_forever()


COMMANDS: Commands = {"sites": Command(sites), "reload": Command(refuse), "count": Stream(count)}


async def asked(path: Path, command: str) -> Any:
    """Serve, ask once, and stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(control.serve, path, COMMANDS)
        try:
            return await trio.to_thread.run_sync(control.ask, path, command)
        finally:
            nursery.cancel_scope.cancel()


def problems_in(group: BaseExceptionGroup[BaseException]) -> list[Problem]:
    found = group.subgroup(ConfigurationError)
    assert found is not None
    (error,) = found.exceptions
    assert isinstance(error, ConfigurationError)
    return list(error.problems)


def test_a_question_is_answered(tmp_path: Path) -> None:
    assert trio.run(asked, tmp_path / "edge-1.sock", "sites") == ["red/seattle"]


def test_what_is_wrong_reaches_the_asker_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(asked, tmp_path / "edge-1.sock", "reload")

    assert problems_in(raised.value) == [Problem("tenant[0].site[0].ike.psk_file", "is empty")]


def test_an_unknown_command_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(asked, tmp_path / "edge-1.sock", "fly")

    (problem,) = problems_in(raised.value)
    assert problem.message == "there is no command 'fly'; there are: count, reload, sites"


def test_only_the_owner_may_ask_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "state" / "edge-1.sock"

    async def look() -> tuple[int, int]:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, COMMANDS)
            modes = (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
            nursery.cancel_scope.cancel()
        return modes

    assert trio.run(look) == (0o600, 0o700)
    assert not path.exists()


def test_a_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as crashed:
        crashed.bind(str(path))

    assert trio.run(asked, path, "sites") == ["red/seattle"]


def test_a_second_appliance_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"

    async def twice() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, COMMANDS)
            await nursery.start(control.serve, path, COMMANDS)

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(twice)

    (problem,) = problems_in(raised.value)
    assert problem.path == "appliance.state"
    assert "Address already in use" in problem.message


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * control.LONGEST_QUESTION,
        b'{"command": "\xff"}',
        b'{"command": "sites", "and": ' + b"[" * 4000,
    ],
    ids=["no JSON", "no UTF-8", "nested too deeply"],
)
def test_garbage_is_answered_and_the_next_question_too(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "edge-1.sock"

    def garble() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(path))
            connection.sendall(garbage + b"\n")
            return connection.recv(4096)

    async def both() -> tuple[bytes, Any]:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, COMMANDS)
            garbled = await trio.to_thread.run_sync(garble)
            answer = await trio.to_thread.run_sync(control.ask, path, "sites")
            nursery.cancel_scope.cancel()
        return garbled, answer

    garbled, answer = trio.run(both)
    assert b"the commands are: count, reload, sites" in garbled
    assert answer == ["red/seattle"]


def test_what_a_stream_tells_comes_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"

    async def listen() -> list[int]:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, COMMANDS)
            told = await trio.to_thread.run_sync(lambda: list(control.follow(path, "count")))
            nursery.cancel_scope.cancel()
        return told

    assert trio.run(listen) == [0, 1, 2]


def test_an_argument_that_a_command_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"

    async def ask() -> Any:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, COMMANDS)
            try:
                return await trio.to_thread.run_sync(control.ask, path, "sites", {"colour": "red"})
            finally:
                nursery.cancel_scope.cancel()

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(ask)

    (problem,) = problems_in(raised.value)
    assert problem.message == "sites: Object contains unknown field `colour`"


def test_a_stream_ends_when_its_asker_leaves(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"
    ended = trio.Event()

    async def for_ever(_asker: Asker, _wanted: Nothing, tell: Tell) -> None:
        try:
            await tell("first")
            await trio.sleep_forever()
        finally:
            ended.set()

    def leave() -> None:
        told = control.follow(path, "for-ever")
        assert next(told) == "first"
        told.close()  # type: ignore[attr-defined]

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, {"for-ever": Stream(for_ever)})
            await trio.to_thread.run_sync(leave)
            with trio.fail_after(5):
                await ended.wait()
            nursery.cancel_scope.cancel()

    trio.run(both)


def test_those_who_follow_lock_out_nobody_who_asks(tmp_path: Path) -> None:
    path = tmp_path / "edge-1.sock"
    commands = {**COMMANDS, "for-ever": Stream(for_ever)}

    def ask_beside_them() -> tuple[Any, list[Problem]]:
        followed = [control.follow(path, "for-ever") for _ in range(control.MOST_FOLLOWED)]
        for each in followed:
            next(each)
        with pytest.raises(ConfigurationError) as raised:
            next(control.follow(path, "for-ever"))
        return control.ask(path, "sites"), list(raised.value.problems)

    async def serve() -> tuple[Any, list[Problem]]:
        async with trio.open_nursery() as nursery:
            await nursery.start(control.serve, path, commands)
            answered = await trio.to_thread.run_sync(ask_beside_them)
            nursery.cancel_scope.cancel()
            return answered

    answer, (problem,) = trio.run(serve)
    assert answer == ["red/seattle"]
    assert (
        problem.message == f"for-ever: {control.MOST_FOLLOWED} others are followed already; end one of them"
    )


def test_asking_nobody_says_that_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match="is it running"):
        control.ask(tmp_path / "edge-1.sock", "sites")
