"""The dashboard's files: all there, nothing from elsewhere, and a browser may run nothing but them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from importlib import resources

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.api.dashboard import routes
from gateway.http.calls import Call
from gateway.http.principals import ANYBODY

PAGE = {file.name: file.read_text() for file in resources.files("gateway.api").joinpath("page").iterdir()}
SCRIPTS = {name: text for name, text in PAGE.items() if name.endswith(".js")}
SERVED = {route.path: route for route in routes()}


def get(path: str, headers: Mapping[str, str] | None = None) -> web.Response:
    request = make_mocked_request("GET", path, headers=dict(headers or {}))

    async def ask() -> web.StreamResponse:
        return await SERVED[path].handler(Call(request, ANYBODY, (), ""))

    answer = asyncio.run(ask())
    assert isinstance(answer, web.Response)
    return answer


def test_every_file_is_served_to_everybody() -> None:
    assert set(SERVED) == {"/", *(f"/dashboard/{name}" for name in PAGE if name != "index.html")}
    assert all(route.is_open and route.method == "GET" for route in SERVED.values())
    assert get("/").text == PAGE["index.html"]


@pytest.mark.parametrize("path", sorted(SERVED))
def test_only_our_own_files_may_run(path: str) -> None:
    headers = get(path).headers

    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Type"].startswith(("text/", "image/svg+xml"))


def test_what_a_browser_has_already_is_not_sent_again() -> None:
    etag = get("/dashboard/main.js").headers["ETag"]

    again = get("/dashboard/main.js", {"If-None-Match": f'W/"other", {etag}'})
    assert (again.status, again.body) == (304, None)
    assert again.headers["Content-Security-Policy"]
    assert get("/dashboard/main.js", {"If-None-Match": '"other"'}).status == 200
    assert etag != get("/dashboard/api.js").headers["ETag"]


def test_the_page_names_only_files_that_are_there() -> None:
    named = set(re.findall(r'(?:src|href)="(/[^"]+)"', PAGE["index.html"]))
    named |= {
        f"/dashboard/{name}" for text in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)
    }

    assert named <= set(SERVED)
    assert named >= {f"/dashboard/{name}" for name in SCRIPTS}


def test_nothing_comes_from_elsewhere() -> None:
    for name, text in PAGE.items():
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}, name


def test_nothing_is_run_or_styled_from_within_the_page() -> None:
    page = PAGE["index.html"]

    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    assert re.findall(r"<script\b[^>]*>", page) == ['<script type="module" src="/dashboard/main.js">']


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_text_never_becomes_markup_or_code(name: str) -> None:
    words = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser|cookie"

    assert not re.search(words, SCRIPTS[name])
