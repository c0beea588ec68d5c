"""A run's phases and its end, as they happen, for any number of clients from one poller."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.runs.ledger import OPEN_STATES, Ledger

_POLL_SECONDS = 1.0
_SILENT_SECONDS = 15.0  # after which a client gets a sign of life
_MOST_CLIENTS = 50
_MOST_SECONDS = 900.0  # of one client, who may come again


class _Watch:
    """The latest state of one run, which a task reads as long as there are clients."""

    def __init__(self, latest: Document) -> None:
        self.latest = latest
        self.clients = 0
        self.changed = asyncio.Event()
        self.poller: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.latest["state"] not in OPEN_STATES


class RunEvents:
    """Follows runs in the ledger; used from one event loop."""

    def __init__(self, db: MongoDatabase) -> None:
        self._ledger = Ledger(db)
        self._watches: dict[str, _Watch] = {}

    @property
    def is_full(self) -> bool:
        """Return true if there are as many clients as are served."""
        return sum(watch.clients for watch in self._watches.values()) >= _MOST_CLIENTS

    async def follow(self, run: Document) -> AsyncIterator[Document | None]:
        """Yield a run as :meth:`read` has read it, then each change; None as a sign of life.

        It ends with the run, after a quarter of an hour, or at once if there are too many clients.
        """
        if self.is_full:
            return
        run_id = run["run_id"]
        if run_id not in self._watches:
            watch = self._watches[run_id] = _Watch(run)
            watch.poller = asyncio.create_task(self._poll(watch))
        watch = self._watches[run_id]
        watch.clients += 1
        ends_at = time.monotonic() + _MOST_SECONDS
        try:
            while time.monotonic() < ends_at:
                changed = watch.changed
                yield watch.latest
                if watch.is_over:
                    return
                while time.monotonic() < ends_at and not await _happens(changed):
                    yield None
        finally:
            watch.clients -= 1
            if not watch.clients and watch.poller:
                watch.poller.cancel()
                del self._watches[run_id]

    async def read(self, run_id: str) -> Document | None:
        """Return what clients see of a run, None if it is unknown."""

        @mongo_errors("reading the ledger")
        def get() -> Document | None:
            return self._ledger.get(run_id)

        run = await run_in_threadpool(get)
        return run and {
            **{key: run.get(key) for key in ("run_id", "state", "phase", "exit_code", "error")},
            "phases": [{"name": p["name"], "seconds": p["seconds"]} for p in run["phases"]],
        }

    async def _poll(self, watch: _Watch) -> None:
        while not watch.is_over:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                run = await self.read(watch.latest["run_id"])
            except DatabaseUnavailableError:
                continue
            if run and run != watch.latest:
                watch.latest = run
                watch.changed.set()
                watch.changed = asyncio.Event()


async def _happens(event: asyncio.Event) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), _SILENT_SECONDS)
    except TimeoutError:
        return False
