"""Network addresses: free ports, ports in use, and the loopback interface."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from recommender.core.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(host: str, port: int) -> bool:
    """Return true if a port accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def is_loopback(host: str) -> bool:
    """Return true if an address is reached from this machine only."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_port_is_free(host: str, port: int) -> None:
    """Raise an error unless the API can listen there.

    Raises
    ------
    ConfigurationError
        If it cannot, for instance because another program listens there.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; set PORT or HOST"
        ) from None
