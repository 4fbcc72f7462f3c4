"""Makes sure that coaches have accounts, before competitors and teams are added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobdeck.core.programme.onboarding import candidates, store
from jobdeck.core.programme.onboarding.candidates import Refusal, new_coach
from jobdeck.core.programme.onboarding.onboarding import LEFT, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any
    from uuid import UUID

    import psycopg

    from jobdeck.core.programme.onboarding.candidates import Newcomer, Person
    from jobdeck.core.programme.onboarding.onboarding import Onboarding

ALREADY = "already_synced"


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
                store.repair_coach(conn, coach.id, coach.synced_user_id)
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
