"""A request and its answer as values, so that what a path does is a plain function."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobdeck.core.http.counters import Counters
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

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


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are in lower case; `target` is path and query as they were sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: a JSON object, or text of some media type."""

    status: int
    content: dict[str, Any] | str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Declined(Exception):
    """A call that is not carried out; nothing was changed. The sentence is told to the caller."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def answer(self) -> Answer:
        """What the caller reads."""
        return Answer(self.status, {"status": "refused", "error": self.sentence}, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    Args:
        path: as it stands in the URL.
        methods: those that are served.
        limit: the most bytes that a body may have.
        admit: looks at everything but the body and raises `Declined` for whoever may not go on.
        handle: carries the call out; runs in a thread of `lane`.
        lane: the threads for it.
    """

    path: str
    methods: tuple[str, ...]
    limit: int
    admit: Callable[[Call], None]
    handle: Callable[[Call], Answer]
    lane: Lane


@dataclass(frozen=True, slots=True)
class Host:
    """What a plugin makes its endpoints from: `lane` runs them, and `wake` begins an `Upkeep` of this name at once."""

    database: Database
    settings: Settings
    counters: Counters
    lane: Lane
    wake: Callable[[str], None]
