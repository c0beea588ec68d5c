"""Network addresses: ports in use, and the loopback interface."""

import ipaddress
import socket
from contextlib import suppress

from recommender.core.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def listens(host: str, port: int) -> bool:
    """Return true if a port accepts connections."""
    with suppress(OSError, UnicodeError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def is_loopback(host: str) -> bool:
    """Return true if an address is reached from this machine only."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_port_is_free(host: str, port: int) -> None:
    """Raise :class:`ConfigurationError` if the API cannot listen on an address."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no host is named so
        reason = f"{getattr(error, 'strerror', error)}; set PORT or HOST"
        raise ConfigurationError(f"the API cannot listen on {host}:{port}: {reason}") from None
