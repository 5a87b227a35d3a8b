"""What of the appliance's commands is asked at which path, and how."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec


class Form(Enum):
    """How an answer is written."""

    JSON = "application/json"
    LINES = "application/jsonl"
    """Of a stream, if it is to be followed: one line for each thing that is told; else a list."""
    CAPTURE = "application/x-pcapng"
    """Of a stream of frames."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of a path, and the command that answers it.

    The arguments are the query of a GET, and a POST's body.
    """

    method: str
    path: str
    command: str
    summary: str
    says: str
    """What the answer is."""
    about: Mapping[str, str] = {}
    """What the arguments are."""
    hidden: frozenset[str] = frozenset()
    """Arguments that are not taken by HTTP."""
    form: Form = Form.JSON
    example: Mapping[str, Any] = {}
    """Of its arguments."""
    for_hosts: bool = False
    """Whether it is for the lookup service's hosts, too."""


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/status",
        command="status",
        summary="Ask how this node is.",
        says="The appliance in short; and where it serves records, how its replica is.",
        for_hosts=True,
    ),
    Operation(
        method="GET",
        path="/v1/sites",
        command="sites",
        summary="List the configured sites, and how each is.",
        says="Sites; `status` is null where another gateway dials.",
        for_hosts=True,
    ),
    Operation(
        method="GET",
        path="/v1/report",
        command="report",
        summary="Read all counters since the start.",
        says="The counters.",
    ),
    Operation(
        method="GET",
        path="/v1/traffic",
        command="traffic",
        summary="Read what each virtual subnet and site has carried, and what was dropped.",
        says="Counters since the start.",
    ),
    Operation(
        method="GET",
        path="/v1/events",
        command="events",
        summary="Read what has happened lately, or follow it.",
        says="Events, oldest first; with `follow=true` a line for each, and an empty one from time to time.",
        about={
            "event": "Only of these kinds, such as site-down,site-up.",
            "tenant": "Only what concerns this tenant.",
            "site": "Only what concerns this site.",
            "since": "Only what is later: in seconds since 1970, UTC.",
            "last": "So many of those that have happened already, at most.",
            "follow": "Whether to go on with what happens from now on.",
        },
        example={"follow": True},
        form=Form.LINES,
    ),
    Operation(
        method="GET",
        path="/v1/overview",
        command="overview",
        summary="Read everything that the dashboard shows.",
        says="The network, its parts and their health.",
    ),
    Operation(
        method="GET",
        path="/v1/trends",
        command="trends",
        summary="Read what a site or a virtual subnet has carried lately.",
        says="Series.",
        about={"tenant": "Whose it is.", "site": "The site.", "subnet": "The virtual subnet."},
        example={"tenant": "red", "site": "seattle"},
    ),
    Operation(
        method="POST",
        path="/v1/trace",
        command="trace",
        summary="Ask what would become of a packet, without sending one.",
        says="Each step, and the end.",
        about={
            "from": "The customer address that sends.",
            "to": "The customer address that it is for.",
            "from_provider": "Instead of `from`: the provider address that a rewritten packet comes from.",
            "to_provider": "Instead of `to`: the provider address that it is for.",
            "tenant": "Whose addresses these are; or its virtual subnet is named.",
            "vsid": "The virtual subnet that it is sent in.",
            "protocol": "tcp, udp or icmp.",
            "port": "Its destination's.",
            "size": "Of the IP packet, in octets.",
            "fragment": "Whether it may be fragmented.",
            "established": "Whether it belongs to a TCP connection that stands.",
            "via": "The provider address that it comes from.",
            "from_site": "The site that it comes from.",
        },
        example={"tenant": "red", "from": "10.0.1.5", "to": "172.16.0.9", "protocol": "tcp", "port": 443},
    ),
    Operation(
        method="GET",
        path="/v1/capture",
        command="capture",
        summary="Capture packets, as a file for Wireshark.",
        says="Packets, until the bound is reached or you leave.",
        about={
            "tenant": "Only of this tenant.",
            "site": "Only to and from this site: TENANT/SITE.",
            "vsid": "Only of this virtual subnet.",
            "address": "Only to or from this customer address, or one of this prefix.",
            "host": "Only to or from this host, gateway or provider address.",
            "side": "inner: customers' packets; outer: as they are on the underlay; or both.",
            "dropped": "Only those that are dropped.",
            "frames": "So many at most.",
            "seconds": "For so many seconds at most.",
            "octets": "So many octets in all, at most.",
            "snaplen": "So many octets of each.",
        },
        example={"tenant": "red", "seconds": 10},
        form=Form.CAPTURE,
    ),
    Operation(
        method="GET",
        path="/v1/diff",
        command="diff",
        summary="Ask what a reload of the configuration's file would change.",
        says="The differences, each with what comes of it.",
        hidden=frozenset({"file"}),
    ),
    Operation(
        method="POST",
        path="/v1/reload",
        command="reload",
        summary="Read the configuration's file once more, and take its changes over.",
        says="What has changed.",
        about={"confirm": "Go back by itself after so many seconds, unless confirmed."},
        hidden=frozenset({"file"}),
        example={"confirm": 60},
    ),
    Operation(
        method="POST",
        path="/v1/confirm",
        command="confirm",
        summary="Keep what a reload has changed.",
        says="What is kept.",
    ),
    Operation(
        method="GET",
        path="/v1/moves",
        command="moves",
        summary="Read which records have moved lately.",
        says="Moves, the newest first.",
    ),
)
