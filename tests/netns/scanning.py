"""Goes through a prefix as fast as a scanner does: `scanning PREFIX`, five hundred datagrams a second."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import sys
import time

EACH_SECOND = 500
MOST = 2000


def main() -> None:
    """Send one datagram to each of the first addresses, and say how many that were."""
    targets = [str(each) for each in itertools.islice(ipaddress.ip_network(sys.argv[1]).hosts(), MOST)]
    begun = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number, target in enumerate(targets):
            time.sleep(max(0.0, begun + number / EACH_SECOND - time.monotonic()))
            # What it is told of earlier ones is said with a later one.
            with contextlib.suppress(OSError):
                sock.sendto(b"is anybody there?", (target, 9))
    sys.stdout.write(f"{len(targets)} addresses scanned in {time.monotonic() - begun:.1f} s\n")


if __name__ == "__main__":
    main()
