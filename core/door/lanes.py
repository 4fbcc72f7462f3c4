"""Threads for one kind of call, and a short queue before them: what does not fit is told to come again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from jobdeck.core.door.calls import Declined

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_SECONDS = "5"


class Lane:
    """Runs plain functions for coroutines. Calls of one kind cannot hold up those of another."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._count = threads
        self._room = threads + waiting
        self._busy = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"door {name}")

    @property
    def full(self) -> bool:
        """Whether calls wait for a thread; for any thread to ask."""
        return self._busy > self._count

    async def run(self, work: Callable[..., Any], *given: Any) -> Any:
        """The result of `work`, for the thread of the event loop.

        Raises:
            Declined: too many wait already.
        """
        if self._busy >= self._room:
            raise Declined(503, "Too many calls at a time. Call again.", Retry_After=RETRY_SECONDS)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Ends the threads after what they do now."""
        self._threads.shutdown(wait=True, cancel_futures=True)
