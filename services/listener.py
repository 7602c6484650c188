"""Whose process listens at an address of this machine, as Linux tells it.

Reads /proc/net/tcp and /proc/net/tcp6. The token of the rooms is sent to nobody else: any local
account may listen at a port that a room left, or has not taken yet.

Source: proc(5) and Linux, Documentation/networking/proc_net_tcp.rst.
"""

import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

__all__ = ["other_account_at"]

_LISTENS = "0A"


def other_account_at(host: str, port: int) -> int | None:
    """Return the uid of another account that listens at `host`:`port`; None where there is none.

    Root is no other account: it publishes the ports of containers, and may read the token anyway.
    Nor is nobody: what answers without a listener was put there by root's own address translation.
    """
    wanted = _address(host)
    for at, uid in _listeners(port):
        if (at == wanted or at.is_unspecified) and uid not in (0, os.geteuid()):
            return uid
    return None


def _address(host: str) -> IPv4Address | IPv6Address:
    return ip_address(socket.gethostbyname(host) if ":" not in host else host)


def _listeners(port: int) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net") / name
        if not path.exists():  # no IPv6, or no Linux
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            address, _, hex_port = fields[1].partition(":")
            if fields[3] == _LISTENS and int(hex_port, 16) == port:
                yield _unpacked(address), int(fields[7])


def _unpacked(text: str) -> IPv4Address | IPv6Address:
    """Return an address of words in the machine's own byte order; mapped ones as IPv4."""
    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    found = ip_address(raw)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found
