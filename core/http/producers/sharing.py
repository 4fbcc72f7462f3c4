"""How producers share the threads that enqueue, so that none makes the others wait."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from jobdeck.core.http.clients.proof import bearer, digest
from jobdeck.core.http.endpoints import RETRY_SECONDS, Answer, Call, Declined, Lane

if TYPE_CHECKING:
    from collections.abc import Callable

IN_WORK: Final = 2
"""Requests of one producer in work at a time. The database takes them one after the other, so more would only wait."""
WAITING: Final = 20
"""Requests of one producer that wait for their turn."""
REST: Final = 10.0
"""A request that enqueued nothing counts against no rate. So its producer's next one waits for this multiple of the
processor time that it took."""
CREATED: Final = 201


class FairLane(Lane):
    """A lane in which each producer has few requests in work, and little time for requests that enqueue nothing."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        super().__init__(name, threads=threads, waiting=waiting)
        # There are no more of them than tokens.
        self._shares: dict[bytes, _Share] = {}

    async def run(self, work: Callable[[Call], Answer], call: Call) -> Answer:
        """Runs `work` in a thread of the pool when it is the turn of the request.

        Raises:
            Declined: too many requests wait already, of this producer or of all.
        """
        whose = digest(bearer(call.headers.get("authorization", "")))
        share = self._shares.setdefault(whose, _Share())
        await share.begin()
        timed = _Timed(work)
        answer: Answer | None = None
        try:
            answer = await super().run(timed, call)
            return answer
        finally:
            share.end(0.0 if answer is not None and answer.status == CREATED else REST * timed.seconds)


class _Share:
    """The requests of one producer."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(IN_WORK)
        self._waiting = 0

    async def begin(self) -> None:
        if self._waiting >= WAITING:
            raise Declined(
                429,
                f"{WAITING} requests of this producer wait already. Nothing was enqueued.",
                Retry_After=RETRY_SECONDS,
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1

    def end(self, rest: float) -> None:
        """Lets the next request begin after `rest` seconds."""
        if rest:
            asyncio.get_running_loop().call_later(rest, self._free.release)
        else:
            self._free.release()


class _Timed:
    """Measures the processor time of a function in its thread."""

    def __init__(self, work: Callable[[Call], Answer]) -> None:
        self._work = work
        self.seconds = 0.0

    def __call__(self, call: Call) -> Answer:
        began = time.thread_time()
        try:
            return self._work(call)
        finally:
            self.seconds = time.thread_time() - began
