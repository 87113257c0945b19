"""Where a server's address leads: to this machine, or to another."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from pytest_slmperf.core.pool import Pool

RAY = "remote:ray "
"""What the device of replicas on a Ray cluster begins with; its head's address follows."""
NAMED = 2
"""Servers that are told one by one."""


def is_local(host: str) -> bool:
    """Whether a host's name or address stands for this machine."""
    if host.casefold() == "localhost":
        return True
    with suppress(ValueError):
        address = ip_address(host)
        return address.is_loopback or address.is_unspecified
    return False


def device_of_url(url: str) -> str | None:
    """`remote:HOST:PORT` of a server on another machine; None of one on this."""
    parts = urlsplit(url)
    if not parts.hostname or is_local(parts.hostname):
        return None
    with suppress(ValueError):  # a port that is none: the engine says so
        return f"remote:{parts.hostname}:{port_of(url)}"
    return f"remote:{parts.hostname}"


def port_of(url: str) -> int:
    """The port of an address, or that of its scheme. Raises ValueError for one that is none."""
    parts = urlsplit(url)
    return parts.port or {"https": 443}.get(parts.scheme, 80)


def device_of_urls(urls: Sequence[str]) -> str | None:
    """The device of several servers as one: None where all are on this machine. Of many the first is named, and the
    others by a digest: other servers are another device.
    """
    there = [device_of_url(url) or f"remote:{urlsplit(url).netloc}" for url in urls]
    if not any(map(device_of_url, urls)):
        return None
    if len(there) <= NAMED:
        return there[0] + "".join(f", {one.partition(':')[2]}" for one in there[1:])
    digest = hashlib.sha256("\n".join(sorted(there)).encode()).hexdigest()[:6]
    return f"{there[0]} and {len(there) - 1} more ({digest})"


def device_of_pool(pool: Pool) -> str | None:
    """The device of a pool's replicas that are on other machines, or on a Ray cluster that runs: what is known of it is
    its address. None of those on this machine.
    """
    if pool.kind == "ray" and pool.addresses:
        return f"{RAY}{pool.addresses[0]}"
    return device_of_urls(pool.addresses) if pool.kind == "endpoints" else None
