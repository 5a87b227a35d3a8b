"""What is put into requests to a lookup node, and what its replies say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gateway.lookup import forms
from gateway.lookup.answers import ProblemForm, decoded, raise_refusal
from gateway.lookup.client.nodes import Reply
from gateway.lookup.entries import RecordKey
from gateway.lookup.store import Expect, Expected, StoreUnavailable

T = TypeVar("T")


def answered(kind: type[T], reply: Reply, key: RecordKey | None = None) -> T:
    """Return what a node answers, or raise what it refuses."""
    check(reply, key)
    with making_sense():
        return decoded(kind, reply.body)


def read_form(kind: type[T], found: object, path: str) -> T:
    """Return the value of a form in a node's answer."""
    with making_sense():
        return forms.read(kind, found, path)


@contextmanager
def making_sense() -> Iterator[None]:
    """A node whose answer is malformed has given none."""
    try:
        yield
    except forms.Malformed as error:
        raise StoreUnavailable(f"a node's answer makes no sense: {error}") from error


def check(reply: Reply, key: RecordKey | None = None) -> None:
    """Raise what a refusal means, of a record perhaps."""
    if not 200 <= reply.status < 300:
        raise_refusal(reply.status, reply.body, key)


def in_words(reply: Reply) -> str:
    """Return what a refusal says."""
    with making_sense():
        return str(decoded(ProblemForm, reply.body))


def has_current(reply: Reply) -> bool:
    """Whether a refusal says what is in the way."""
    try:
        return bool(decoded(dict[str, Any], reply.body).get("current"))
    except forms.Malformed:
        return False


def precondition(expected: Expected) -> dict[str, str]:
    """Return the header that has a record written only if it is as expected."""
    if expected is Expect.ABSENT:
        return {"If-None-Match": "*"}
    return {"If-Match": "*" if expected is Expect.ANY else f'"{expected}"'}


def path_of(key: RecordKey) -> str:
    """Return where a record is."""
    return f"/v1/records/{key.vsid}/{key.ca}"


def query_of(**wanted: object) -> dict[str, str]:
    """Return a query of what is given."""
    return {name: str(value) for name, value in wanted.items() if value is not None}


def body_of(**wanted: object) -> dict[str, Any]:
    """Return a body with the forms of what is given."""
    return {name: forms.form(value) for name, value in wanted.items() if value is not None}
