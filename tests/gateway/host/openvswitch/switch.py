"""A switch in a few lines: carries out flows as Open vSwitch would, on what they may match and change.

It is stricter in one way: two flows of one priority that both match and differ are an error.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from gateway.packets import arp, ethernet, ip
from policies.facts import ICMP, ICMPV6, UDP

Fields = dict[str, int]

_SHORT = {
    "ip": {"dl_type": 0x0800},
    "ipv6": {"dl_type": 0x86DD},
    "arp": {"dl_type": 0x0806},
    "icmp6": {"dl_type": 0x86DD, "nw_proto": ICMPV6},
    "udp": {"dl_type": 0x0800, "nw_proto": UDP},
}
_ALIAS = {
    "eth_src": "dl_src",
    "eth_dst": "dl_dst",
    "tun_ipv6_src": "tun_src6",
    "tun_ipv6_dst": "tun_dst6",
    "NXM_OF_ETH_SRC": "dl_src",
    "NXM_OF_ETH_DST": "dl_dst",
    "NXM_OF_IN_PORT": "in_port",
    "NXM_OF_ARP_OP": "arp_op",
    "NXM_OF_ARP_SPA": "arp_spa",
    "NXM_OF_ARP_TPA": "arp_tpa",
    "NXM_NX_ARP_SHA": "arp_sha",
    "NXM_NX_ARP_THA": "arp_tha",
    "OXM_OF_METADATA": "metadata",
}


class Flow(msgspec.Struct, frozen=True):
    """One flow, read once."""

    priority: int
    fields: dict[str, tuple[int, int]]
    """Value and mask by field."""
    actions: str


class Output(msgspec.Struct, frozen=True):
    """A packet on its way out at a port."""

    port: int
    fields: Fields


class Switch:
    """The flows of one bridge, and what becomes of a packet."""

    def __init__(self, flows: Mapping[str, str]) -> None:
        self._tables: dict[int, list[Flow]] = {}
        for match, actions in flows.items():
            table, flow = _read(match, actions)
            self._tables.setdefault(table, []).append(flow)
        for table_flows in self._tables.values():
            table_flows.sort(key=lambda flow: -flow.priority)

    def receive(self, fields: Fields) -> list[Output]:
        """Carry a packet through, from table 0 on."""
        registers = {"metadata": 0, **{f"reg{number}": 0 for number in range(5)}}
        outputs: list[Output] = []
        self._lookup(0, {"tun_id": 0, **registers, **fields}, outputs)
        return outputs

    def _lookup(self, table: int, fields: Fields, outputs: list[Output]) -> bool:
        found: Flow | None = None
        for flow in self._tables.get(table, []):
            if found is not None and flow.priority < found.priority:
                break
            if all(
                name in fields and fields[name] & mask == value for name, (value, mask) in flow.fields.items()
            ):
                if found is not None and found.actions != flow.actions:
                    raise AssertionError(f"table {table}: {found} and {flow}")
                found = flow
        return self._act(found.actions, fields, outputs) if found is not None else True

    def _act(self, actions: str, fields: Fields, outputs: list[Output]) -> bool:
        """Do what a list of actions says, and say whether the packet lives on."""
        for action in _split(actions):
            if action == "drop":
                return True
            if found := re.fullmatch(r"resubmit\(,(\d+)\)", action):
                if not self._lookup(int(found[1]), fields, outputs):
                    return False
            elif found := re.fullmatch(r"clone\((.*)\)", action):
                self._act(found[1], dict(fields), outputs)
            elif found := re.fullmatch(r"output:(\d+)", action):
                if int(found[1]) != fields["in_port"]:
                    outputs.append(Output(int(found[1]), dict(fields)))
            elif action == "IN_PORT":
                outputs.append(Output(fields["in_port"], dict(fields)))
            elif action == "dec_ttl":
                if fields["nw_ttl"] <= 1:
                    return False
                fields["nw_ttl"] -= 1
            elif found := re.fullmatch(r"set_field:(.*)->(\w+)", action):
                fields[_ALIAS.get(found[2], found[2])] = _value(found[1])[0]
            elif found := re.fullmatch(r"load:(\w+)->(\w+)\[\]", action):
                fields[_register(found[2])] = int(found[1], 0)
            elif found := re.fullmatch(r"move:(\w+)\[\]->(\w+)\[\]", action):
                fields[_register(found[2])] = fields[_register(found[1])]
            elif found := re.fullmatch(r"check_pkt_larger\((\d+)\)->NXM_NX_REG4\[(\d)\]", action):
                bit = 1 << int(found[2])
                is_larger = fields["length"] > int(found[1])
                fields["reg4"] = fields["reg4"] & ~bit | (bit if is_larger else 0)
            elif not action.startswith("multipath(symmetric_l4,"):
                raise AssertionError(action)
        return True


def fields_of(frame: bytes, in_port: int) -> Fields:
    """What Open vSwitch sees of a sound frame without a tag."""
    header = ethernet.decode_untrusted(frame)
    fields = {
        "in_port": in_port,
        "length": len(frame),
        "dl_dst": int.from_bytes(header.destination),
        "dl_src": int.from_bytes(header.source),
        "dl_type": header.ethertype,
        "vlan_tci": 0x1000 if header.ethertype in (ethernet.VLAN, ethernet.QINQ) else 0,
    }
    payload = frame[ethernet.HEADER_LENGTH :]
    if header.ethertype == ethernet.ARP:
        said = arp.decode_untrusted(payload)
        fields |= {"arp_op": said.operation}
        fields |= {"arp_sha": int.from_bytes(said.sender_mac), "arp_tha": int.from_bytes(said.target_mac)}
        fields |= {"arp_spa": int.from_bytes(said.sender_address)}
        fields |= {"arp_tpa": int.from_bytes(said.target_address)}
    elif header.ethertype in (ethernet.IPV4, ethernet.IPV6):
        facts = ip.decode_untrusted(payload)
        names = ("nw_src", "nw_dst") if facts.version == 4 else ("ipv6_src", "ipv6_dst")
        fields |= dict(
            zip(names, (int.from_bytes(facts.source), int.from_bytes(facts.destination)), strict=True)
        )
        fields |= {"nw_proto": facts.protocol, "nw_ttl": facts.hop_limit}
        fields |= {"tp_src": facts.source_port, "tp_dst": facts.destination_port}
        if facts.protocol in (ICMP, ICMPV6) and facts.icmp_type >= 0:
            fields |= {"icmp_type": facts.icmp_type, "icmp_code": facts.icmp_code}
            if facts.protocol == ICMPV6 and facts.icmp_type in (135, 136):
                target = payload[facts.header_length + 8 : facts.header_length + 24]
                fields |= {"nd_target": int.from_bytes(target)}
    return fields


def _read(match: str, actions: str) -> tuple[int, Flow]:
    table = priority = 0
    fields: dict[str, tuple[int, int]] = {}
    for word in match.split(","):
        name, _, text = word.partition("=")
        if name == "table":
            table = int(text)
        elif name == "priority":
            priority = int(text)
        elif name in _SHORT:
            fields |= {key: (value, -1) for key, value in _SHORT[name].items()}
        else:
            value, mask = _value(text)
            fields[_ALIAS.get(name, name)] = value & mask, mask
    return table, Flow(priority, fields, actions)


def _value(text: str) -> tuple[int, int]:
    whole, _, mask = text.partition("/")
    if re.fullmatch(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", whole):
        return int(whole.replace(":", ""), 16), int(mask.replace(":", ""), 16) if mask else -1
    if "." in whole or ":" in whole:
        network = ipaddress.ip_network(text, strict=False)
        return int(ipaddress.ip_address(whole)), int(network.netmask)
    return int(whole, 0), int(mask, 0) if mask else -1


def _register(name: str) -> str:
    found = re.fullmatch(r"NXM_NX_REG(\d)", name)
    return f"reg{found[1]}" if found else _ALIAS[name]


def _split(actions: str) -> Iterator[str]:
    """Split at the commas that are in no parentheses."""
    depth, start = 0, 0
    for position, letter in enumerate(actions):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            yield actions[start:position]
            start = position + 1
    yield actions[start:]


def at(outputs: Iterable[Output], port: int) -> list[Fields]:
    """What goes out at a port."""
    return [output.fields for output in outputs if output.port == port]
