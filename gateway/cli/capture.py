"""The command `capture`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from gateway.cli.command_line import FAILED, INSTALLED, LOOK, follow, say_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.operating.capture import Frame, Told

FRAMES = 10_000
WHOLE = 65_549

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0, lte=86_400))]
Snaplen = Annotated[int, Parameter(validator=Number(gte=14, lte=WHOLE))]
Frames = Annotated[int, Parameter(validator=Number(gte=1, lte=1_000_000))]


def register(app: App) -> None:
    """Add this command to the command line."""
    app.command(capture, group=LOOK)


def capture(
    file: Path = INSTALLED,
    *,
    tenant: str | None = None,
    site: str | None = None,
    address: str | None = None,
    vsid: int | None = None,
    host: str | None = None,
    side: Literal["inner", "outer", "both"] = "inner",
    dropped: bool = False,
    frames: Frames = FRAMES,
    seconds: Seconds | None = None,
    octets: Positive | None = None,
    snaplen: Snaplen = WHOLE,
    write: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    fields: bool = False,
    json: bool = False,
) -> int:
    """Show packets of the appliance that runs by FILE, one a line, or write them for Wireshark.

    A packet is shown where it comes in and where it leaves. Forwarding does not wait for it: what this
    command is too slow for is counted as lost. It ends after --frames packets, after --seconds,
    or on Ctrl-C. Into Wireshark:

        isthmus capture edge.toml --tenant red --write - | wireshark -k -i -

    Parameters
    ----------
    file
        The configuration, appliance.toml.
    tenant
        Only this tenant's packets.
    site
        Only those through a site's tunnel: TENANT/SITE, or with --tenant the site alone.
    address
        Only those from or to a customer address, or a prefix of them.
    vsid
        Only those of a virtual subnet.
    host
        Only those from or to a host, a gateway or a site's peer: its name, or a provider address.
    side
        inner: as the tenant sees them; outer: as the underlay does, in NVGRE or ESP, or rewritten; or both.
    dropped
        Only those that are dropped, each with the reason.
    frames
        How many packets at most.
    seconds
        For how long at most.
    octets
        How many octets at most, all packets together.
    snaplen
        How many octets of each packet.
    write
        Write a pcapng file: its name, or - for a pipe.
    fields
        Below each packet, print every field of it.
    json
        Print one JSON object a packet.
    """
    from gateway.operating.capture import Wanted

    wanted = Wanted(
        tenant=tenant,
        site=site,
        address=address,
        vsid=vsid,
        host=host,
        side=side,
        dropped=dropped,
        frames=frames,
        seconds=seconds,
        octets=octets,
        snaplen=snaplen,
    )
    told = _told(file, wanted)
    if write is None:
        count, lost = _print(told, fields=fields, json=json)
    elif write == "-":
        if sys.stdout.isatty():
            print(
                "isthmus: a terminal shows no pcapng: give a file, or pipe it into a program", file=sys.stderr
            )
            return FAILED
        count, lost = _write(told, sys.stdout.buffer, wanted.snaplen)
    else:
        try:
            with Path(write).open("wb") as opened:
                count, lost = _write(told, opened, wanted.snaplen)
        except OSError as error:
            print(f"isthmus: {write}: {error.strerror or error}", file=sys.stderr)
            return FAILED
    with suppress(BrokenPipeError):
        print(f"{count} packets captured, {lost} lost because they were read too slowly", file=sys.stderr)
    return 0


def _told(file: Path, wanted: Any) -> Iterable[Told]:
    import msgspec

    from gateway.operating.capture import Told

    arguments = {key: value for key, value in msgspec.to_builtins(wanted).items() if value is not None}
    is_first = True
    for item in follow(file, "capture", arguments):
        if is_first:
            is_first = False
            print("capturing; Ctrl-C ends it", file=sys.stderr, flush=True)
        yield msgspec.convert(item, Told)


def _print(told: Iterable[Told], *, fields: bool, json: bool) -> tuple[int, int]:
    from gateway.operating.packet_words import of_frame_untrusted, of_packet_untrusted

    count = lost = 0
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for each in told:
            lost = each.lost
            for frame in each.frames:
                count += 1
                if json:
                    say_json(frame)
                    continue
                describe = of_frame_untrusted if frame.is_ethernet else of_packet_untrusted
                print(_line(frame, describe(frame.octets)), flush=True)
                if fields:
                    print(_fields(frame), flush=True)
    return count, lost


def _line(frame: Frame, words: str) -> str:
    from datetime import datetime

    at = datetime.fromtimestamp(frame.at).astimezone().strftime("%H:%M:%S.%f")
    way = "in " if frame.is_inbound else "out"
    how = "rewritten " if frame.is_rewritten else ""
    end, _, why = frame.end.partition(": ")
    return f"{at} {frame.place} {way} {how}{words}" + (f"  {end.upper()} {why}" if end else "")


def _fields(frame: Frame) -> str:
    from textwrap import indent

    from gateway.operating.dissection import fields_untrusted

    return indent(fields_untrusted(frame.octets, is_ethernet=frame.is_ethernet), "    ")


def _write(told: Iterable[Told], file: BinaryIO, snaplen: int) -> tuple[int, int]:
    from gateway.operating.capture import CaptureFile

    content = CaptureFile(snaplen)
    count = lost = 0
    with suppress(BrokenPipeError):  # whoever reads it has had enough
        try:
            file.write(content.begin())
            for each in told:
                count, lost = count + len(each.frames), each.lost
                file.write(content.add(each))
                file.flush()
        except KeyboardInterrupt:
            print(file=sys.stderr)
        file.write(content.end())
        file.flush()
    return count, lost
