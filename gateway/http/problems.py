"""What is wrong with a request, as RFC 9457 says it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class HttpProblem(Exception):
    """A request is answered with a problem. The detail may be told to whoever asks.

    `extra` are further members of the answer: `current`, `reason`, `problems`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    @property
    def body(self) -> bytes:
        """The answer's JSON."""
        title = HTTPStatus(self.status).phrase
        problem = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        return msgspec.json.encode({**problem, **self.extra})


def problem_answer(problem: HttpProblem) -> web.Response:
    """Return a problem as an answer."""
    headers = {"Content-Type": CONTENT_TYPE, **problem.headers}
    response = web.Response(status=problem.status, body=problem.body, headers=headers)
    if headers.get("Connection") == "close":
        response.force_close()
    return response
