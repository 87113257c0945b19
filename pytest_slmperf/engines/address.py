"""Where a server's address leads: to this machine, or to another."""

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit


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
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return f"remote:{parts.hostname}:{port}"
    return f"remote:{parts.hostname}"
