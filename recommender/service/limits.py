"""Limits on connections, so that half-sent requests cannot keep others out."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_SECONDS = 10.0
# Half of the file descriptors; the rest is for MongoDB, logs and trainings.
_CONNECTIONS = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with a limit on connections and on the time to send a header.

    uvicorn has neither: its ``limit_concurrency`` answers 503 and leaves connections open.
    """

    def connection_made(self, transport: Any) -> None:
        """Close the connection at once if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            transport.abort()
        self._close_unless_used_since(self)

    def _close_unless_used_since(self, cycle: object) -> None:
        """Close the connection if no new request has arrived since this request cycle."""
        if self.cycle is cycle and (cycle is None or self.cycle.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            loop = asyncio.get_running_loop()
            loop.call_later(_REQUEST_SECONDS, self._close_unless_used_since, self.cycle)
