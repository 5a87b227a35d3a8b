"""What objects of ours hold, counted: so that whatever grows is found by its name."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import trio

_OURS = ("gateway", "tunnels", "policies")
_BULK = (str, bytes, bytearray, int, float, bool, type(None), type)


class Census(msgspec.Struct, frozen=True):
    """How much there was at one moment."""

    sizes: Mapping[str, int]
    """Entries of all containers, by the class and attribute that hold them, added up over its instances."""
    instances: Mapping[str, int]
    blocks: int
    """What the interpreter has allocated, everything included."""
    tasks: int
    descriptors: int


def grown(early: Sequence[Census], late: Sequence[Census]) -> dict[str, tuple[int, int]]:
    """What is always more, late, than it ever was before: the most that it was, and the least that it is.

    What comes and goes may be there at any moment: an SA that lingers, a stranger's bucket.
    """
    found = {}
    for kind in ("sizes", "instances"):
        least = Counter(getattr(late[0], kind))
        most: Counter[str] = Counter()
        for each in late:
            least &= Counter(getattr(each, kind))
        for each in early:
            most |= Counter(getattr(each, kind))
        found.update({name: (most[name], n) for name, n in least.items() if n > most[name]})
    for name in ("tasks", "descriptors"):
        was, now = max(getattr(each, name) for each in early), min(getattr(each, name) for each in late)
        if now > was:
            found[name] = was, now
    return found


def take(*roots: object, but: object = None) -> Census:
    """Count what can be reached from some objects through ours, `but` one of them and what it alone has."""
    gc.collect()
    sizes: Counter[str] = Counter()
    instances: Counter[str] = Counter()
    seen = {id(but)}
    waiting: deque[tuple[str, object]] = deque(("", root) for root in roots)
    while waiting:
        name, item = waiting.popleft()
        if isinstance(item, _BULK) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            sizes[name] += len(item)
            waiting.extend((name, each) for pair in item.items() for each in pair)
        elif isinstance(item, list | tuple | set | frozenset | deque):
            sizes[name] += len(item)
            waiting.extend((name, each) for each in item)
        elif isinstance(item, array):
            sizes[name] += len(item)
        elif type(item).__module__.partition(".")[0] in _OURS:
            kind = type(item).__qualname__
            instances[kind] += 1
            waiting.extend((f"{kind}.{attribute}", value) for attribute, value in _attributes(item))
        elif callable(item) and (owner := getattr(item, "__self__", None)) is not None:
            waiting.append((name, owner))
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names alone are wanted
    return Census(sizes, instances, sys.getallocatedblocks(), _count_tasks(), descriptors)


def _count_tasks() -> int:
    """Of asyncio's loop or of trio's, whichever this is in."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return sum(1 for _ in _trio_tasks())


def _trio_tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def _attributes(item: object) -> Iterator[tuple[str, object]]:
    names = dict.fromkeys(getattr(item, "__dict__", ()))
    for base in type(item).__mro__:
        slots = base.__dict__.get("__slots__", ())
        names.update(dict.fromkeys((slots,) if isinstance(slots, str) else slots))
    for name in names:
        try:
            yield name, getattr(item, name)
        except AttributeError:
            continue  # a slot that holds nothing yet
