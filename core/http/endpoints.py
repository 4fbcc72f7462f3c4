"""Requests and responses as plain values, so that an endpoint is a plain function."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobdeck.core.http.counters import Counters
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings


RETRY_SECONDS: Final = "5"
"""After how many seconds a client should repeat a request that met a busy server."""


class Lane:
    """A pool of threads for one kind of endpoints, so that slow requests of one kind do not delay the others."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self._count = threads
        self._room = threads + waiting
        self._busy = 0
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"door {name}")

    @property
    def full(self) -> bool:
        """Whether requests wait for a thread. Can be read in any thread."""
        return self._busy > self._count

    async def run(self, work: Callable[..., Any], *given: Any) -> Any:
        """Runs `work` in a thread of the pool. Call it in the thread of the event loop.

        Raises:
            Declined: too many requests wait already.
        """
        if self._busy >= self._room:
            raise Declined(503, "The server is busy. Try again later.", Retry_After=RETRY_SECONDS)
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        finally:
            self._busy -= 1

    def close(self) -> None:
        """Waits for the running functions, then ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Header names are in lower case; `target` is the path and query as sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: a JSON object, or text with its media type."""

    status: int
    content: dict[str, Any] | str
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Declined(Exception):
    """A request is refused and nothing was changed. The caller receives the sentence."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def answer(self) -> Answer:
        return Answer(self.status, {"status": "refused", "error": self.sentence}, headers=self.headers)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of the HTTP server.

    Args:
        path: the path of the URL.
        methods: the allowed methods.
        limit: the maximum size of a body, in bytes.
        admit: checks the request without its body, and raises `Declined` when it is not authorised.
        handle: does the work, in a thread of `lane`.
        lane: the threads for `handle`.
        prove: checks the signature of the whole request, in a thread, and raises `Declined` when it is wrong. None
            when `admit` is the whole proof.
        public: whether `admit` lets requests pass without a secret.
    """

    path: str
    methods: tuple[str, ...]
    limit: int
    admit: Callable[[Call], None]
    handle: Callable[[Call], Answer]
    lane: Lane
    prove: Callable[[Call], None] | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """What a plugin needs to make its endpoints. `lane` runs them; `wake` runs the `Upkeep` of this name now."""

    database: Database
    settings: Settings
    counters: Counters
    lane: Lane
    wake: Callable[[str], None]
