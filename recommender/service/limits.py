"""Limits on connections and bodies, so that no client can keep others out."""

import asyncio
import resource
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_SECONDS = 10.0
_BODY_BYTES = 100_000  # 1,000 ratings fit
# Half of the file descriptors; the rest is for MongoDB, logs and trainings.
_CONNECTIONS = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
BACKLOG = 50  # connections that wait; asyncio accepts as many before one can be closed


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with a limit on connections and on the time to send a request.

    uvicorn has neither: its ``limit_concurrency`` answers 503 and leaves connections open.
    """

    def connection_made(self, transport: Any) -> None:
        """If there are too many connections, close the oldest that waits for a request."""
        super().connection_made(transport)
        self._opened = time.monotonic()
        if len(self.connections) > _CONNECTIONS:
            ours = [each for each in self.connections if isinstance(each, LimitedProtocol)]
            waiting = filter(LimitedProtocol._waits, ours)
            min(waiting, key=lambda each: each._opened).transport.abort()
        self._close_unless_used_since(self)

    def _waits(self) -> bool:
        """Return true if it is open, and the client has to send a request or the rest of one."""
        cycle = self.cycle
        unanswered = cycle and not cycle.response_complete and not cycle.more_body
        return not unanswered and not self.transport.is_closing()

    def _close_unless_used_since(self, cycle: object) -> None:
        """Close the connection if no request has arrived whole since this request cycle."""
        if self.cycle is cycle and self._waits():
            self.transport.close()
        elif not self.transport.is_closing():
            loop = asyncio.get_running_loop()
            loop.call_later(_REQUEST_SECONDS, self._close_unless_used_since, self.cycle)


class LimitedBody:
    """ASGI middleware that answers 413 to a request whose body is too long for any call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and count the bytes of its body as they are read."""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _BODY_BYTES:
                raise HTTPException(413, f"a body has at most {_BODY_BYTES:,} bytes")
            return message

        await self._app(scope, limited, send)
