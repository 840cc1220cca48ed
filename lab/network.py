"""Addresses: forwarded ports read back from QEMU, and the private network between machines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from lab.errors import LabError

# The addresses QEMU's user network (slirp) gives by default. The guest has them as static ones: no
# DHCP exchange, so the network is up a moment earlier.
GUEST_ADDRESS = "10.0.2.15"
GATEWAY = "10.0.2.2"
NAME_SERVER = "10.0.2.3"

LAN_PREFIX = "10.77.0."
_FIRST_LAN_HOST, _LAST_LAN_HOST = 11, 250


def parse_forwards(usernet: str) -> dict[int, int]:
    """Return {guest port: port on 127.0.0.1} from the output of QEMU's monitor command `info usernet`.

    QEMU is asked for port 0, so the kernel picks a free one and two machines never race for a port.
    A line reads: TCP[HOST_FORWARD]  11  127.0.0.1  42781  10.0.2.15  22  0  0
    """
    forwards: dict[int, int] = {}
    for line in usernet.splitlines():
        match = re.match(r"\s*TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s", line + " ")
        if match:
            forwards[int(match[2])] = int(match[1])
    return forwards


def multicast_endpoint(home: Path, lan: str) -> str:
    """Return group:port of the private network `lan` of one lab.

    QEMU's multicast socket is a hub without a process of its own: whoever joins the group is on the wire.
    Group and port come from a hash, so networks of the same name in two labs do not meet.
    """
    digest = hashlib.sha256(f"{home}\0{lan}".encode()).digest()
    port = 20000 + int.from_bytes(digest[3:5], "big") % 10000
    # 239.0.0.0/8 is reserved for private use (RFC 2365).
    return f"239.{digest[0]}.{digest[1]}.{digest[2]}:{port}"


def mac_address(home: Path, machine: str, card: str) -> str:
    """Return a stable locally administered address under QEMU's prefix."""
    digest = hashlib.sha256(f"{home}\0{machine}\0{card}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def free_lan_address(taken: Collection[str]) -> str:
    """Return the lowest address of the private network nobody has."""
    for host in range(_FIRST_LAN_HOST, _LAST_LAN_HOST + 1):
        address = f"{LAN_PREFIX}{host}"
        if address not in taken:
            return address
    raise LabError("Every address of the private network is taken. Remove machines: python -m lab list")


def networkd_files(mac: str, lan_mac: str | None, lan_address: str | None) -> dict[str, str]:
    """Return systemd-networkd's files for one machine: path in the guest -> content."""
    files = {
        "etc/systemd/network/10-outside.network": (
            f"[Match]\nMACAddress={mac}\n\n[Network]\nAddress={GUEST_ADDRESS}/24\nGateway={GATEWAY}\n"
            f"DNS={NAME_SERVER}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
    }
    if lan_mac and lan_address:
        files["etc/systemd/network/20-lan.network"] = (
            f"[Match]\nMACAddress={lan_mac}\n\n[Network]\nAddress={lan_address}/24\n"
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        )
    return files
