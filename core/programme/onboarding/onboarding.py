"""Onboards several people at a time: looks each up, requests an account if there is none, and stores the answer.

Threads only talk to the vendor; decisions and writes happen in the run's own thread. An account is never requested
twice: a row is written before each request, and if the outcome of a request is unknown, the person is left for a
second look, which asks the vendor first.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import psycopg

from jobdeck.core.programme.onboarding import attempts, candidates, store
from jobdeck.core.programme.onboarding.attempts import ADOPTED, CREATED, Run
from jobdeck.core.programme.onboarding.candidates import Newcomer, Person, Refusal, new_coach
from jobdeck.core.programme.sync.fetch import Parallel
from jobdeck.core.programme.sync.rules import ACTIVE_STATUSES, account_status, outage
from jobdeck.core.programme.vendors.metactf_errors import (
    AuthError,
    Conflict,
    ContractError,
    Forbidden,
    GamePlatformError,
    ServerError,
    TransportError,
)
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from uuid import UUID

    from jobdeck.core.errors import JobdeckError
    from jobdeck.core.programme.resources import CompetitionContext
    from jobdeck.core.programme.vendors.metactf import MetaCtfClient
    from jobdeck.core.programme.vendors.metactf_wire import User

ALREADY: Final = "already_synced"
"""The outcome for a person who has a usable account."""
LEFT: Final = "left"
"""The outcome for a person who is left for a second look."""
ELSEWHERE: Final = "elsewhere"
"""The outcome for a person whom another job is onboarding now."""
GONE: Final = "gone"
"""The outcome for a person who was deleted in the meantime."""
NOT_ASKED: Final = "The account has not been requested yet."
LONGEST_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one person: `created`, `adopted`, `left`, `elsewhere`, `gone`, or the word for a failure."""

    outcome: str
    message: str = ""

    @property
    def good(self) -> bool:
        """Whether the person has a usable account now."""
        return self.outcome in {CREATED, ADOPTED}


@dataclass(frozen=True, slots=True)
class _Step:
    """One request under way: the look-up of a person, or the creation of the account."""

    newcomer: Newcomer
    creates: bool = False


class Onboarding:
    """Onboards the people of one run. `place` returns the run's progress in words."""

    def __init__(self, ctx: CompetitionContext, client: MetaCtfClient, lap: str, place: Callable[[], str]) -> None:
        self._ctx = ctx
        self._client = client
        self._run = Run(lap, ctx.job.id, ctx.job.run_token)
        self._place = place
        self._outages = 0
        self._pause = 0.0
        self._stop: JobdeckError | None = None
        self._verdicts: dict[UUID, Verdict] = {}

    def take(self, newcomers: Sequence[Newcomer], *, on_done: Callable[[], None] = lambda: None) -> dict[UUID, Verdict]:
        """Onboards people and returns the outcome for each.

        When the run has to stop, requests under way are awaited and stored first, so no created account is lost.

        Raises:
            AuthError: the token is not accepted.
            RetryLater: the vendor cannot answer.
            Cancelled: the run was asked to stop.
        """
        self._verdicts = {}
        opened = self._open(newcomers)
        wanted = [one for one in newcomers if one.person_id in opened]
        calls = ((_Step(one), partial(self._client.find_user, one.synced_user_id)) for one in wanted)
        workers = self._ctx.resources.settings.game_platform_concurrency
        with Parallel[_Step](workers, at_a_time=2 * workers) as under_way:
            for step, future in under_way.results(calls, stopping=self._stopping):
                if self._after(step, future, under_way):
                    on_done()
                for waiting_step in under_way.drop_waiting() if self._stopping() else ():
                    self._leave(waiting_step.newcomer, NOT_ASKED, not_sent=waiting_step.creates)
        if self._stop is not None:
            raise self._stop
        self._ctx.raise_if_cancelled()
        return self._verdicts

    def refuse(self, refused: Iterable[tuple[Person, Refusal]]) -> None:
        """Records people who get no account, without asking the vendor."""
        found = list(refused)
        opened = self._open([person for person, _ in found])
        for person, refusal in found:
            if person.person_id in opened:
                self._fail(person, refusal)

    def postpone(self, people: Sequence[Person], message: str) -> None:
        """Leaves people for a second look, without asking the vendor."""
        opened = self._open(people)
        for person in people:
            if person.person_id in opened:
                attempts.leave(self._ctx.db, self._run, person.person_id, message)

    def drop(self, person: Person) -> None:
        """Deletes the open attempt of a person who needs no onboarding any more."""
        attempts.drop(self._ctx.db, self._run, person.person_id)

    def _stopping(self) -> bool:
        return self._stop is not None or self._ctx.cancelled()

    def _open(self, people: Sequence[Person]) -> set[UUID]:
        if not people:
            return set()
        opened = attempts.open_all(self._ctx.db, self._run, people, doubt_seconds=self._client.doubt_seconds)
        for one in people:
            if one.person_id not in opened:
                self._verdicts[one.person_id] = Verdict(ELSEWHERE, "Another job is onboarding this person.")
        return opened

    def _after(self, step: _Step, future: Future[Any], under_way: Parallel[_Step]) -> bool:
        """Handles an answer; returns whether the person is finished."""
        try:
            answer = future.result()
        except GamePlatformError as error:
            self._failed(step, error)
            return True
        self._outages = 0
        if step.creates:
            user, created = answer
            self._store(step.newcomer, user, CREATED if created else ADOPTED)
        elif answer is not None:
            self._store(step.newcomer, answer, None)
        elif self._stopping() or not self._intends(step.newcomer):
            self._leave(step.newcomer, NOT_ASKED)
        else:
            give_up_at = time.monotonic() + self._client.budget
            under_way.start(_Step(step.newcomer, creates=True), partial(self._create, step.newcomer, give_up_at))
            return False
        return True

    def _intends(self, newcomer: Newcomer) -> bool:
        return attempts.intend(self._ctx.db, self._run, newcomer, doubt_seconds=self._client.doubt_seconds)

    def _create(self, newcomer: Newcomer, give_up_at: float) -> tuple[User, bool]:
        """Requests the account, unless it is so late that another run may have taken the person over."""
        if time.monotonic() > give_up_at:
            raise TransportError("The request waited too long and was not sent.", ambiguous=False)
        return self._client.create_user(newcomer.new)

    def _failed(self, step: _Step, error: GamePlatformError) -> None:
        message = safe_error(str(error), LONGEST_MESSAGE)
        if isinstance(error, AuthError):
            self._stop = self._stop or error
            self._leave(step.newcomer, message)
        elif error.outage or (step.creates and isinstance(error, ContractError)):
            not_sent = step.creates and not _in_doubt(error)
            self._leave(step.newcomer, message, not_sent=not_sent)
            self._count_outage(error)
        else:
            self._outages = 0
            self._fail(step.newcomer, Refusal(_word(error), message))

    def _count_outage(self, error: GamePlatformError) -> None:
        if not error.outage:
            return
        self._outages += 1
        self._pause = float(getattr(error, "seconds", 0.0))
        stop = outage(
            "onboarding", self._outages, self._pause, self._place(), str(error), attempt=self._ctx.job.attempt
        )
        self._stop = self._stop or stop

    def _store(self, newcomer: Newcomer, user: User, outcome: str | None) -> None:
        try:
            with self._telling(newcomer):
                problem = _unusable(user) if newcomer.role == "coach" else None
                stored = store.store_account(self._ctx.db, self._run, newcomer, user, outcome, problem)
                self._judge(newcomer, stored, problem or "")
        except psycopg.errors.DeadlockDetected:
            self._leave(newcomer, "A concurrent transaction caused a deadlock.")
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            # The error's own text quotes the row, which holds personal data.
            where = error.diag.constraint_name or type(error).__name__
            self._fail(
                newcomer,
                Refusal("taken", f"The account exists but cannot be stored ({where}). Look for a second mapping."),
            )

    def _fail(self, person: Person, refusal: Refusal) -> None:
        with self._telling(person):
            store.store_failure(self._ctx.db, self._run, person, refusal)
            self._judge(person, refusal.outcome, refusal.message)

    @contextmanager
    def _telling(self, person: Person) -> Iterator[None]:
        try:
            yield
        except store.PersonGoneError:
            self._judge(person, GONE, "The person was deleted in the meantime.")
        except store.TakenOverError:
            self._judge(person, ELSEWHERE, "Another run has taken this person over.")

    def _leave(self, person: Person, message: str, *, not_sent: bool = False) -> None:
        attempts.leave(self._ctx.db, self._run, person.person_id, message, not_sent=not_sent)
        self._judge(person, LEFT, message)

    def _judge(self, person: Person, outcome: str, message: str = "") -> None:
        self._verdicts[person.person_id] = verdict = Verdict(outcome, message)
        if not verdict.good:
            who = "Coach" if person.role == "coach" else "Competitor"
            self._ctx.log.warning("%s %s: %s. %s", who, person.person_id, outcome, message[:300])


@dataclass(frozen=True, slots=True)
class CoachAccount:
    """The outcome for a coach; `synced_user_id` is the usable account, or None."""

    synced_user_id: str | None
    verdict: Verdict


def settle_coaches(
    conn: psycopg.Connection[Any],
    onboarding: Onboarding,
    ids: Sequence[UUID],
    lap: str,
    on_done: Callable[[], None] = lambda: None,
) -> dict[UUID, CoachAccount]:
    """Looks up or creates the accounts of these coaches; ids without a profile are left out.

    A coach who failed in this lap is not tried again in it; only open outcomes get a second look.
    """
    found = candidates.coaches(conn, ids, lap)
    settled: dict[UUID, CoachAccount] = {}
    refused: list[tuple[Person, Refusal]] = []
    newcomers: list[Newcomer] = []
    for coach in found:
        if coach.state == "failed":
            settled[coach.id] = CoachAccount(None, Verdict(coach.outcome or LEFT, coach.message or ""))
        elif coach.usable and not coach.taken:
            if coach.profile_id != coach.mapped_id:
                store.note_coach(conn, coach.id, coach.synced_user_id)
            settled[coach.id] = CoachAccount(coach.mapped_id, Verdict(ALREADY))
        else:
            made = coach.refusal or new_coach(coach)
            if isinstance(made, Refusal):
                refused.append((coach.person, made))
                settled[coach.id] = CoachAccount(None, Verdict(made.outcome, made.message))
            else:
                newcomers.append(made)
    onboarding.refuse(refused)
    verdicts = onboarding.take(newcomers, on_done=on_done)
    for newcomer in newcomers:
        verdict = verdicts.get(newcomer.person_id, Verdict(LEFT))
        account = newcomer.synced_user_id if verdict.good else None
        settled[newcomer.person_id] = CoachAccount(account, verdict)
    return settled


def _in_doubt(error: GamePlatformError) -> bool:
    """Whether the vendor may have created the account in spite of this error."""
    return isinstance(error, ServerError | ContractError) or (isinstance(error, TransportError) and error.ambiguous)


def _word(error: GamePlatformError) -> str:
    if isinstance(error, Conflict):
        return "conflict"
    if isinstance(error, Forbidden):
        return "not_approved"
    return "contract" if isinstance(error, ContractError) else "refused"


def _unusable(user: User) -> str | None:
    status = account_status(user.metactf_user_status, logged_in=bool(user.last_login_unix_timestamp))
    if status in ACTIVE_STATUSES:
        return None
    return (
        f"The coach's account has the status {status}. It must be approved or user_created before competitors and "
        "teams can be added. Ask the vendor to approve it."
    )
