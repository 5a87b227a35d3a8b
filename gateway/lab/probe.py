"""Probes of our own: python -m gateway.lab.probe ping ... and so on; --help lists them.

ping, traceroute and tracepath take the options of the tools that they are named after, as
far as the laboratory uses them, and report as those do.
"""

from __future__ import annotations

import argparse
import sys

from gateway.lab import echo, path, transfer


def main(argv: list[str] | None = None) -> int:
    """Run one probe; return its exit status: 0 if what it asks is so, 1 if not."""
    arguments = vars(_parser().parse_args(argv))
    probe = arguments.pop("probe")
    arguments.pop("numeric", None)
    try:
        return int(probe(**arguments))
    except OSError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probe", description="Probe a network from inside.")
    probes = parser.add_subparsers(required=True)

    ping = probes.add_parser("ping", help="ICMP echo")
    ping.set_defaults(probe=_ping)
    ping.add_argument("-n", dest="numeric", action="store_true", help="numbers only, which is all we print")
    ping.add_argument("-c", dest="count", type=int, default=4)
    ping.add_argument("-i", dest="interval", type=float, default=1.0, help="seconds")
    ping.add_argument("-W", dest="timeout", type=float, default=1.0, help="seconds")
    ping.add_argument("-s", dest="size", type=int, default=56, help="octets behind the ICMP header")
    ping.add_argument("-t", dest="hop_limit", type=int)
    ping.add_argument("-I", dest="source", help="the address to send from")
    ping.add_argument("-M", dest="discovery", choices=("do", "dont"), default="dont")
    ping.add_argument("target")

    for name, probe in (("traceroute", path.traceroute), ("tracepath", path.tracepath)):
        route = probes.add_parser(name, help="the routers on the way")
        route.set_defaults(probe=probe)
        route.add_argument("-n", dest="numeric", action="store_true")
        route.add_argument("-m", dest="max_hops", type=int, default=30)
        if name == "traceroute":
            route.add_argument("-q", dest="queries", type=int, default=3)
            route.add_argument("-w", dest="timeout", type=float, default=1.0, help="seconds")
        route.add_argument("target")

    send = probes.add_parser("send", help="octets by TCP to `receive`, with a hash")
    send.set_defaults(probe=transfer.send)
    send.add_argument("target")
    send.add_argument("port", type=int)
    send.add_argument("count", type=int, help="octets")
    send.add_argument("--rate", type=int, default=0, help="octets a second; 0: no limit")

    receive = probes.add_parser("receive", help="one TCP connection of `send`")
    receive.set_defaults(probe=transfer.receive)
    receive.add_argument("port", type=int)

    flood = probes.add_parser("flood", help="UDP packets to `count`")
    flood.set_defaults(probe=transfer.flood)
    flood.add_argument("target")
    flood.add_argument("port", type=int)
    flood.add_argument("--packets", type=int, default=1000)
    flood.add_argument("--size", type=int, default=64, help="octets of payload")
    flood.add_argument("--rate", type=float, default=0.0, help="packets a second; 0: no limit")

    count = probes.add_parser("count", help="UDP packets of `flood`")
    count.set_defaults(probe=transfer.count)
    count.add_argument("port", type=int)
    count.add_argument("expected", type=int, help="packets")
    count.add_argument("--idle", type=float, default=1.0, help="seconds without a packet that end it")
    say = probes.add_parser("say", help="a sentence to whoever asks, by TCP")
    say.set_defaults(probe=transfer.say)
    say.add_argument("port", type=int)
    say.add_argument("text")

    ask = probes.add_parser("ask", help="what `say` has to say")
    ask.set_defaults(probe=transfer.ask)
    ask.add_argument("target")
    ask.add_argument("port", type=int)
    for side in (receive, count, send, ask):
        side.add_argument("--timeout", type=float, default=60.0, help="seconds")
    return parser


def _ping(*, discovery: str, **arguments: object) -> int:
    return echo.ping(dont_fragment=discovery == "do", **arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
