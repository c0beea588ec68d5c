"""What listens where: free ports, and ports that somebody has."""

from __future__ import annotations

import socket

from recommender.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def listens(host: str, port: int) -> bool:
    """Say whether something accepts connections at a port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def check_port_is_free(host: str, port: int) -> None:
    """Return if the API can listen there.

    Raises
    ------
    ConfigurationError
        If it cannot, as where something else does.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found[:1]:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; set PORT or HOST"
        ) from None
