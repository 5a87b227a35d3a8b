from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from gateway.http.calls import Call, answer
from gateway.http.door import Door
from gateway.http.measures import BUCKETS, Histogram, Measures
from gateway.http.routes import Route
from gateway.http.service import listening
from policies.services import ApiSettings

Test = Callable[[aiohttp.ClientSession], Awaitable[None]]


async def _says(call: Call) -> web.StreamResponse:
    return answer("|".join(call.parts).encode())


async def _fails(_call: Call) -> web.StreamResponse:
    raise RuntimeError("broken")


async def _streams(call: Call) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(call.request)
    await response.write(b"x")
    return response


ROUTES = (
    Route("GET", "/one/{name}", _says),
    Route("GET", "/one/{name}/{other}", _says),
    Route("DELETE", "/one/{name}", _says),
    Route("GET", "/two", _says),
    Route("GET", "/two", _fails),
    Route("GET", "/three", _streams),
)


def asked(test: Test, measures: Measures | None = None) -> Measures:
    """Run a test with somebody who asks these routes, and return what was measured."""
    found = measures or Measures()

    async def main() -> None:
        settings = ApiSettings(listen="127.0.0.1:0")
        async with (
            listening(settings, "api", ROUTES, Door(), measures=found) as port,
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        ):
            await test(session)

    asyncio.run(main())
    return found


def test_names_in_a_path_are_its_parts_each_decoded_after_it_is_cut_out() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        base = str(session._base_url).rstrip("/")
        for path, said in {
            "/one/a": "a",
            "/one/a%2Fb": "a/b",
            "/one/": "",
            "/one/a/b": "a|b",
            "/one/a%3Fb": "a?b",
        }.items():
            async with session.get(URL(f"{base}{path}", encoded=True)) as response:
                assert (response.status, await response.text()) == (200, said), path
        for path in ("/one", "/one/a/b/c", "/four", "/two/"):
            async with session.get(path) as response:
                assert response.status == 404, path

    asked(test)


def test_later_route_of_a_path_answers() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        async with session.get("/two") as response:
            assert response.status == 500

    asked(test)


def test_every_answer_is_counted_by_its_route_whatever_was_asked_for() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        for number in range(50):
            async with session.get(f"/one/{number}"), session.get(f"/nothing/{number}"):
                pass
        async with session.get("/two"), session.get("/three") as response, session.patch("/two"):
            assert await response.read() == b"x"

    measures = asked(test)

    assert dict(measures.answers) == {
        ("GET", "/one/{name}", 200): 50,
        ("GET", "", 404): 50,
        ("GET", "/two", 500): 1,
        ("GET", "/three", 200): 1,
        ("", "", 405): 1,
    }
    # What goes on has no time that it took.
    assert sum(measures.latencies["GET", "/one/{name}"].counts) == 50
    assert ("GET", "/three") not in measures.latencies


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (10.0, 12), (11.0, 13)])
def test_histogram_counts_what_took_as_long_as_a_bound_below_it(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.tell(seconds)

    assert [number for number, count in enumerate(histogram.counts) if count] == [bucket]
    assert histogram.seconds == seconds
    assert len(histogram.counts) == len(BUCKETS) + 1


def test_unknown_paths_make_no_series_of_their_own() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        for number in range(20):
            async with session.patch(f"/x{number}"):
                pass

    assert len(asked(test).answers) == 1


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_no_page_but_our_own_has_a_browser_ask_and_be_it_to_read(method: str, site: str, status: int) -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        async with session.request(method, "/one/a", headers={"Sec-Fetch-Site": site}) as response:
            assert response.status == status

    asked(test)
