"""Plans and sends the vendor requests for one competitor, a bounded number at a time in threads.

The threads never touch the database: results are handed to the caller's thread.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from jobdeck.core.programme.sync.rules import HEARTBEAT_SECONDS, account_status
from jobdeck.core.programme.vendors.metactf_errors import AuthError, Forbidden, GamePlatformError, NotFound, RateLimited
from jobdeck.core.programme.vendors.metactf_wire import FlashProgress, Scores, User, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from jobdeck.core.programme.settings import CompetitionSettings
    from jobdeck.core.programme.sync.roster import Now, Subject
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient


T = TypeVar("T")


class Parallel(Generic[T]):
    """A bounded number of calls, each identified by a tag.

    Leaving the context waits for running calls and cancels those that have not started.
    """

    def __init__(self, workers: int, *, at_a_time: int | None = None, tick: Callable[[], None] = lambda: None) -> None:
        """Creates the thread pool.

        Args:
            workers: number of calls that run at the same time.
            at_a_time: number of calls accepted, running or waiting for a thread; `workers` if None.
            tick: called every `HEARTBEAT_SECONDS` in which no call completes.
        """
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="metactf")
        self._at_a_time = at_a_time or workers
        self._tick = tick
        self._running: dict[Future[Any], T] = {}
        self._completed: deque[tuple[T, Future[Any]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def results(
        self, calls: Iterable[tuple[T, Callable[[], Any]]], *, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[T, Future[Any]]]:
        """Starts calls, with their tags, as there is room for them, and yields each that completes.

        None of them is started once `stopping`. Those that the caller starts meanwhile are yielded too.
        """
        waiting = iter(calls)
        while True:
            while not (self._full or stopping()) and (one := next(waiting, None)) is not None:
                self.start(*one)
            if (found := self._next()) is None:
                return
            yield found

    def start(self, tag: T, call: Callable[[], Any]) -> None:
        """Submits a call."""
        self._running[self._pool.submit(call)] = tag

    def drop_waiting(self) -> list[T]:
        """Cancels the calls that have not started and returns their tags."""
        waiting = [future for future in self._running if future.cancel()]
        return [self._running.pop(future) for future in waiting]

    @property
    def _full(self) -> bool:
        return len(self._running) + len(self._completed) >= self._at_a_time

    def _next(self) -> tuple[T, Future[Any]] | None:
        """Waits for a call to complete and returns it; None if there is none."""
        while not self._completed and self._running:
            done, _ = wait(self._running, timeout=HEARTBEAT_SECONDS, return_when=FIRST_COMPLETED)
            self._completed.extend((self._running.pop(future), future) for future in done)
            if not done:
                self._tick()
        return self._completed.popleft() if self._completed else None


INACTIVE: Final = frozenset({"user_created", "pending_approval", "denied"})
"""Account states in which the vendor has no scores to fetch."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the payload forces: the whole ODL history (`full`), or Flash CTF with stale rows removed (`flash`)."""

    full: bool = False
    flash: bool = False

    @property
    def flash_only(self) -> bool:
        """Whether ODL is left out, because only Flash CTF is forced."""
        return self.flash and not self.full


@dataclass(frozen=True, slots=True)
class Cadence:
    """How many seconds of solves are fetched again, and how often the full history and Flash CTFs are fetched."""

    overlap_seconds: int
    full_every: timedelta
    flash_every: timedelta

    @classmethod
    def of(cls, settings: CompetitionSettings) -> Self:
        return cls(
            settings.game_platform_overlap_seconds,
            timedelta(hours=settings.game_platform_full_hours),
            timedelta(hours=settings.game_platform_flash_hours),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests to send for one competitor; `after` is in unix seconds, None for the whole history."""

    account: bool
    odl: bool
    flash: bool
    after: int | None
    skip_inactive: bool
    replace_flash: bool


@dataclass(slots=True)
class Answers:
    """The vendor's answers about one competitor. Each source (account, ODL, Flash CTF) can fail on its own."""

    subject: Subject
    plan: Plan
    asked_at: datetime
    user: User | None = None
    scores: Scores | None = None
    flash: FlashProgress | None = None
    inactive: bool = False
    account_error: GamePlatformError | None = None
    odl_error: GamePlatformError | None = None
    flash_error: GamePlatformError | None = None

    @property
    def last_login_at(self) -> datetime | None:
        fresh = moment(self.user.last_login_unix_timestamp) if self.user else None
        return fresh or self.subject.last_login_at

    @property
    def status(self) -> str | None:
        """Our status for the vendor's answer to `GET /users`; None if that request was not sent or failed."""
        if self.user is None:
            return None
        return account_status(self.user.metactf_user_status, logged_in=self.last_login_at is not None)

    @property
    def errors(self) -> list[GamePlatformError]:
        """The errors, in the order of the requests."""
        return [error for error in (self.account_error, self.odl_error, self.flash_error) if error is not None]

    @property
    def conclusive(self) -> bool:
        """Whether the sync error can be updated from this. Not after an outage, a skip or an empty Flash history."""
        if self.errors:
            return not self.outage
        return self.scores is not None or bool(self.flash and self.flash.flash_ctfs)

    @property
    def outage(self) -> bool:
        """Whether the vendor could not answer at all, rather than refusing this one person."""
        return any(error.outage for error in self.errors)

    @property
    def pause(self) -> float:
        """The pause the vendor asked for, in seconds; 0 if it asked for none."""
        return max((error.seconds for error in self.errors if isinstance(error, RateLimited)), default=0.0)


def plan(subject: Subject, wish: Wish, cadence: Cadence, now: Now) -> Plan:
    """Chooses the requests for one competitor from the stored state; `now` is the database's clock."""
    complete = wish.full or subject.watermark is None or subject.full_at is None
    complete = complete or now.at - (subject.full_at or now.at) >= cadence.full_every
    return Plan(
        account=subject.status != "approved" or subject.last_login_at is None,
        odl=not wish.flash_only,
        flash=wish.flash or _flash_due(subject, cadence, now),
        after=None
        if complete or subject.watermark is None
        else max(subject.watermark - cadence.overlap_seconds, 0) or None,
        skip_inactive=not (wish.full or wish.flash),
        replace_flash=wish.flash,
    )


def _flash_due(subject: Subject, cadence: Cadence, now: Now) -> bool:
    checked = subject.flash_checked_at
    if checked is None or now.at - checked >= cadence.flash_every:
        return True
    return now.newest_flash_at is not None and now.newest_flash_at > checked


def ask(client: MetaCtfClient, subject: Subject, plan_: Plan, asked_at: datetime, unwanted: threading.Event) -> Answers:
    """Sends the planned requests in order and keeps each answer or error.

    Stops early if the vendor does not know the person, refuses them, or fails on ODL: for Flash CTF the vendor
    answers 404 both for a person without any and for an unknown person. Also stops once `unwanted` is set.

    Raises:
        AuthError: the token is not accepted, so no other competitor can be fetched either.
    """
    answers = Answers(subject, plan_, asked_at)
    user_id = subject.synced_user_id
    if plan_.account:
        answers.user, answers.account_error = _attempt(lambda: client.get_user(user_id))
        answers.inactive = plan_.skip_inactive and answers.status in INACTIVE
        if answers.inactive or isinstance(answers.account_error, NotFound) or unwanted.is_set():
            return answers
    if plan_.odl:
        answers.scores, answers.odl_error = _attempt(lambda: client.get_scores(user_id, plan_.after))
        refused = answers.odl_error
        if isinstance(refused, Forbidden) and not plan_.account:
            answers.user, answers.account_error = _attempt(lambda: client.get_user(user_id))
        if refused is not None and (refused.outage or isinstance(refused, Forbidden | NotFound)):
            return answers
    if plan_.flash and not unwanted.is_set():
        answers.flash, answers.flash_error = _attempt(lambda: client.get_flash_progress(user_id))
    return answers


def _attempt(call: Callable[[], T]) -> tuple[T | None, GamePlatformError | None]:
    try:
        return call(), None
    except AuthError:
        raise
    except GamePlatformError as error:
        return None, error


def ask_all(
    client: MetaCtfClient,
    planned: Sequence[tuple[Subject, Plan]],
    asked_at: datetime,
    *,
    workers: int,
    tick: Callable[[], None],
) -> Generator[Answers]:
    """Fetches many competitors with `workers` threads and yields each one's answers as they arrive.

    `tick` is called periodically while no answer arrives. If the caller stops early, requests under way are
    awaited and no more are sent.

    Raises:
        AuthError: the token is not accepted.
    """
    unwanted = threading.Event()
    calls = ((None, partial(ask, client, *one, asked_at, unwanted)) for one in planned)
    # One more than there are threads, so that none waits while the caller stores an answer.
    with Parallel[None](workers, at_a_time=workers + 1, tick=tick) as under_way:
        try:
            for _, future in under_way.results(calls):
                yield future.result()
        finally:
            unwanted.set()
