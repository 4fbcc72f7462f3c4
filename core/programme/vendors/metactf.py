"""MetaCTF's HTTP API: the endpoints, which requests are retried, and how failures are reported.

GETs and (un)assigning are idempotent and retried automatically. Creating is never retried: if the outcome of a
creation is unknown, a look-up by our own id decides.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx

from jobdeck.core.programme.vendors.exchange import CONNECT_SECONDS, Exchange, ExchangeError, Reply, Unreadable
from jobdeck.core.programme.vendors.http import Pacer, Time, full_jitter, parse_retry_after
from jobdeck.core.programme.vendors.metactf_errors import (
    Conflict,
    ContractError,
    GamePlatformError,
    NotFound,
    RateLimited,
    RequestRejected,
    ServerError,
    TokenMissing,
    TransportError,
)
from jobdeck.core.programme.vendors.metactf_wire import (
    Answer,
    Assignments,
    FlashProgress,
    NewTeam,
    NewUser,
    Scores,
    Team,
    User,
    check,
    decode,
    refusal,
)

if TYPE_CHECKING:
    from jobdeck.core.programme.settings import CompetitionSettings

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4
BUDGET_FACTOR: Final = 3.0
"""All attempts of one call together take at most this many times the read timeout."""
LARGEST_ANSWER: Final = 16
"""In MiB."""

A = TypeVar("A", bound=Answer)


class MetaCtfClient:
    """The game platform's API. Thread-safe.

    Every method raises the errors of `metactf_errors`; a docstring names only those with a special meaning.
    """

    def __init__(
        self,
        settings: CompetitionSettings,
        *,
        time: Time | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Reads address, token, rate and timeout from the settings; sends nothing.

        Raises:
            TokenMissing: `GAME_PLATFORM_API_TOKEN` is not set.
        """
        token = settings.game_platform_api_token
        if token is None or not token.get_secret_value().strip():
            raise TokenMissing
        self._time = time or Time()
        self._pacer = Pacer(settings.game_platform_rate_per_second, self._time)
        seconds = settings.game_platform_timeout_seconds
        self._budget = seconds * BUDGET_FACTOR
        self._exchange = Exchange(
            settings.game_platform_api_base_url,
            seconds,
            largest=LARGEST_ANSWER,
            clock=self._time.monotonic,
            headers={
                "Authorization": f"Bearer {token.get_secret_value().strip()}",
                "Accept": "application/json",
                "User-Agent": "jobdeck",
            },
            limits=httpx.Limits(max_connections=settings.game_platform_concurrency + 4),
            transport=transport,
        )

    def close(self) -> None:
        self._exchange.close()

    @property
    def budget(self) -> float:
        """Seconds within which a call starts its last attempt or gives up."""
        return self._budget

    @property
    def doubt_seconds(self) -> float:
        """Seconds after which an abandoned call, including its wait for the rate limit, is certainly over.

        Until then the vendor may still be processing it.
        """
        return 2 * self._budget + CONNECT_SECONDS + 2 * self._budget / BUDGET_FACTOR

    def get_user(self, syned_user_id: str) -> User:
        """Looks up an account by our own id.

        Raises:
            NotFound: there is none.
            Forbidden: the vendor does not answer, because the user is not approved.
        """
        user = self._get("/users", User, syned_user_id=syned_user_id)
        _same(syned_user_id, user.syned_user_id, "/users")
        return user

    def find_user(self, syned_user_id: str) -> User | None:
        """Looks up an account by our own id; None if there is none."""
        try:
            return self.get_user(syned_user_id)
        except NotFound:
            return None

    def create_user(self, new: NewUser) -> tuple[User, bool]:
        """Creates an account, or adopts the existing one with this `syned_user_id`; the request is sent once.

        Returns:
            The account, and whether this call created it. If the outcome is unknown, a look-up decides, and an
            account that it finds counts as created by this call.

        Raises:
            Conflict: the vendor has a conflicting account, most likely with the same e-mail address.
        """
        try:
            user = self._create("/users", User, new.model_dump(exclude_none=True))
        except (Conflict, RequestRejected) as error:
            found = self.find_user(new.syned_user_id)
            if found is None:
                raise self._clash(error, new) from error
            return found, False
        except (ServerError, TransportError, ContractError) as error:
            return self._settle(error, new), True
        if not _equal(user.syned_user_id, new.syned_user_id):
            raise self._clash(None, new)
        return user, True

    def create_team(self, new: NewTeam) -> Team | None:
        """Creates a team; the request is sent once.

        Returns:
            The team, or None if the vendor already has a team with this `syned_team_id`.

        Raises:
            Conflict, RequestRejected: the vendor refuses it for another reason than a team of this id.
        """
        try:
            team = self._create("/teams", Team, new.model_dump())
        except (Conflict, RequestRejected) as error:
            try:
                self.get_team_assignments(new.syned_team_id)
            except NotFound:
                raise error from None
            return None
        _same(new.syned_team_id, team.syned_team_id, "/teams")
        return team

    def assign_member(self, syned_team_id: str, syned_user_id: str) -> None:
        """Assigns a user to a team.

        Raises:
            Conflict: the user is on another team, and the vendor does not move them.
        """
        body = {"syned_team_id": syned_team_id, "syned_user_id": syned_user_id}
        self._post("/users/assign_team", body, repeatable=True)

    def unassign_member(self, syned_user_id: str) -> None:
        """Removes a user from their team, whichever it is: the vendor's endpoint takes no team."""
        self._post("/users/delete_assignment", {"syned_user_id": syned_user_id}, repeatable=True)

    def get_team_assignments(self, syned_team_id: str | None = None) -> Assignments:
        """The assignments of one team, or of all teams."""
        return self._get("/users/get_team_assignments", Assignments, syned_team_id=syned_team_id)

    def get_scores(self, syned_user_id: str, after: int | None = None) -> Scores:
        """On-demand learning solves after a time in unix seconds, or all solves.

        Raises:
            NotFound: the vendor does not know the user.
            Forbidden: the user is not approved.
        """
        scores = self._get("/scores/get_odl_scores", Scores, syned_user_id=syned_user_id, after_time_unix=after)
        if scores.syned_user_id is not None:
            _same(syned_user_id, scores.syned_user_id, "/scores/get_odl_scores")
        return scores

    def get_flash_progress(self, syned_user_id: str) -> FlashProgress:
        """A person's whole Flash CTF history; empty if the vendor answers 404, which means "none yet"."""
        try:
            progress = self._get("/scores/get_flash_ctf_progress", FlashProgress, syned_user_id=syned_user_id)
        except NotFound:
            return FlashProgress(syned_user_id=syned_user_id)
        _same(syned_user_id, progress.syned_user_id, "/scores/get_flash_ctf_progress")
        return progress

    def _settle(self, doubt: GamePlatformError, new: NewUser) -> User:
        if isinstance(doubt, TransportError) and not doubt.ambiguous:
            raise doubt
        try:
            found = self.find_user(new.syned_user_id)
        except GamePlatformError:
            raise doubt from None
        if found is None:
            raise doubt
        return found

    def _clash(self, refused: GamePlatformError | None, new: NewUser) -> GamePlatformError:
        if isinstance(refused, RequestRejected):
            return refused
        return Conflict(
            f"The game platform did not create the account {new.syned_user_id}: it has a conflicting account, most "
            "likely with the same e-mail address. Use another address, or ask the vendor to merge the accounts."
        )

    def _get(self, path: str, model: type[A], **query: str | int | None) -> A:
        given = {name: value for name, value in query.items() if value not in {None, ""}}
        content = self._send("GET", path, {}, repeatable=True, params=given)
        return check(decode(content, f"GET {path}"), model, f"GET {path}")

    def _create(self, path: str, model: type[A], body: dict[str, Any]) -> A:
        content = self._post(path, body, repeatable=False)
        return check(decode(content, f"POST {path}"), model, f"POST {path}")

    def _post(self, path: str, body: dict[str, Any], *, repeatable: bool) -> bytes:
        return self._send("POST", path, body, repeatable=repeatable, json=body)

    def _send(self, method: str, path: str, sent: dict[str, Any], *, repeatable: bool, **content: Any) -> bytes:
        where = f"{method} {path}"
        deadline = self._time.monotonic() + self._budget
        attempt = 1
        while True:
            try:
                reply = self._attempt(method, path, deadline, content)
                if 200 <= reply.status < 300:
                    return reply.content
                raise self._refusal(reply, where, sent)
            except (RateLimited, ServerError, TransportError) as error:
                closed = self._pacer.closed_for
                wait = 0.0 if closed else full_jitter(attempt, self._time.random())
                left = deadline - self._time.monotonic()
                if not repeatable or attempt == ATTEMPTS or max(wait, closed) >= left:
                    raise
                logger.debug("%s: attempt %d failed (%s)", where, attempt, type(error).__name__)
            self._time.sleep(wait)
            attempt += 1

    def _attempt(self, method: str, path: str, deadline: float, content: dict[str, Any]) -> Reply:
        self._pace(deadline)
        try:
            return self._exchange.ask(method, path, within=deadline - self._time.monotonic(), **content)
        except Unreadable as error:
            raise ContractError(f"The game platform did not answer {method} {path} as agreed: {error}.") from error
        except ExchangeError as error:
            raise self._unanswered(error, f"{method} {path}", late=self._time.monotonic() > deadline) from error

    def _refusal(self, reply: Reply, where: str, sent: dict[str, Any]) -> GamePlatformError:
        wait = parse_retry_after(reply.headers.get("Retry-After"), self._time.wall())
        failed = refusal(reply.status, reply.content, where, sent, wait)
        if wait and failed.outage:
            self._pacer.close_for(wait)
        return failed

    def _unanswered(self, error: ExchangeError, where: str, *, late: bool) -> TransportError:
        if late:
            return TransportError(
                f"The game platform's answer to {where} took longer than {self._budget:.0f} s "
                "(three times GAME_PLATFORM_TIMEOUT_SECONDS).",
                ambiguous=True,
            )
        what = "gave no full answer to" if error.sent else "could not be reached for"
        return TransportError(
            f"The game platform {what} {where} ({error}). "
            "If this lasts, check GAME_PLATFORM_API_BASE_URL and the network.",
            ambiguous=error.sent,
        )

    def _pace(self, deadline: float) -> None:
        wait = self._pacer.reserve(deadline - self._time.monotonic())
        if wait is None:
            closed = max(self._pacer.closed_for, 1.0)
            raise RateLimited(closed, f"The game platform asked for a pause; it ends in {closed:.0f} s.")
        if wait > 0:
            self._time.sleep(wait)


def _equal(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


def _same(asked: str, answered: str, path: str) -> None:
    if not _equal(asked, answered):
        raise ContractError(f"The game platform's answer to {path} is for another id than the requested one.")
