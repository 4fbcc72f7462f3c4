"""A small competition for a test: rows here, accounts at the sandbox, and syncs between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

from jobdeck.core.handlers.game_platform_sync import Params, run
from jobdeck.core.programme.sandbox.metactf import Account, flash_event, solve
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.registry import Continue, Done
from tests.support.context import FakeContext, run_once, sandbox_settings
from tests.support.queue import Connection

Json = dict[str, Any]
T0 = 1_755_000_000
"""Unix seconds of the first solve, in the past of every clock."""

TABLES = (
    "profiles", "competitors", "teams", "team_members", "game_platform_profiles", "game_platform_teams",
    "game_platform_challenge_solves", "game_platform_flash_ctf_events", "game_platform_sync_state",
    "game_platform_stats", "game_platform_sync_runs", "game_platform_onboarding", "activity_logs",
)  # fmt: skip


@dataclass
class World:
    """Both sides. Names and addresses carry marks that must never be seen outside the tables."""

    conn: Connection
    sandbox: Sandbox
    contexts: list[FakeContext] = field(default_factory=list)

    def coach(self, *, approved: bool = True, account: str | None = None) -> UUID:
        coach = uuid4()
        self.conn.insert(
            "profiles", id=coach, email=f"zzcoach-{coach}@example.org", full_name="Zzcoach Marked",
            first_name="Zzcoach", last_name="Marked", school_name="Example High", is_approved=approved,
        )  # fmt: skip
        if account:
            self.map(coach, account, of="coach")
        return coach

    def competitor(
        self,
        coach: UUID,
        *,
        status: str | None = "approved",
        remote: str | None = "approved",
        logged_in: bool = True,
        created_at: str | None = None,
        on_platform: bool = True,
    ) -> str:
        """A competitor with an account; returns its id, which is also the platform's. `remote` None: unknown there."""
        person = uuid4()
        self.conn.insert(
            "competitors", id=person, coach_id=coach, first_name="Zzfirst", last_name="Zzlast",
            email_personal="zzmail@example.org", game_platform_id=str(person) if on_platform else None,
            created_at=created_at or "now",
        )  # fmt: skip
        if status is not None:
            self.map(person, str(person), status=status)
        if logged_in:
            self.conn.insert("game_platform_sync_state", synced_user_id=str(person), last_login_at="2025-01-01T00:00Z")
        if remote is not None and on_platform:
            self.sandbox.metactf.add_account(str(person), status=remote)
        return str(person)

    def competitors(self, number: int, coach: UUID | None = None, **given: Any) -> list[str]:
        """Competitors of one coach, who is a new one where none is named."""
        coach = coach or self.coach()
        return [self.competitor(coach, **given) for _ in range(number)]

    def candidate(self, coach: UUID, **columns: Any) -> UUID:
        """A competitor with a complete profile and no account; `columns` go before what is filled in."""
        person = uuid4()
        given = {
            "id": person, "coach_id": coach, "first_name": "Zzfirst", "last_name": "Zzlast",
            "email_personal": f"zzmail-{person}@example.org", "email_school": None, "is_18_or_over": False,
            "grade": "10", "gender": "zzgender", "race": "zzrace", "ethnicity": "zzethnicity",
            "level_of_technology": "some", "years_competing": 0, "parent_name": "Zzparent",
            "parent_email": "zzparent@example.org", "media_release_date": None, "participation_agreement_date": None,
            "is_active": True, "status": "profile", "game_platform_id": None, "syned_coach_user_id": None,
        } | columns  # fmt: skip
        self.conn.insert("competitors", **given)
        return person

    def everything_to_sync(self) -> list[str]:
        """People and teams of whom a sync would change all that it can; returns the people."""
        coach = self.coach(account="k-1")
        people = [self.competitor(coach, status=None, logged_in=False) for _ in range(3)]
        self.solves(people[0], 1, 2)
        self.account(people[1]).flash = [flash_event("Spring", T0, [solve(1, T0)])]
        self.team(coach, people[0], synced_team_id="t-1")
        self.team(coach, people[1])
        self.account(people[2]).team = "t-1"
        return people

    def map(self, person: UUID, synced: str, *, status: str = "approved", of: str = "competitor") -> None:
        """A person's mapping to an account."""
        given: Json = {f"{of}_id": person, "metactf_role": "coach" if of == "coach" else "user"}
        self.conn.insert("game_platform_profiles", synced_user_id=synced, status=status, **given)

    def team(self, coach: UUID, *members: str, synced_team_id: str | None = None, remote: bool = True) -> UUID:
        team: UUID = self.conn.insert("teams", coach_id=coach, name=f"Team {uuid4()}", game_platform_id=synced_team_id)
        for position, member in enumerate(members, start=1):
            self.conn.insert("team_members", team_id=team, competitor_id=member, position=position)
        if synced_team_id is not None and remote:
            self.sandbox.metactf.add_team(synced_team_id)
        return team

    def account(self, person: str) -> Account:
        return self.sandbox.metactf.accounts[person]

    def solves(self, person: str, *ids: int, at: int = T0) -> None:
        """Adds ODL solves a minute apart."""
        self.account(person).solves += [solve(one, at + 60 * nth) for nth, one in enumerate(ids)]

    def context(self, checkpoint: Json | None = None, job_id: UUID | None = None, **settings: Any) -> FakeContext:
        context = FakeContext(
            self.conn, sandbox_settings(self.sandbox, **settings), checkpoint=checkpoint, job_id=job_id
        )
        self.contexts.append(context)
        return context

    def sync(self, context: FakeContext | None = None, **payload: Any) -> Done | Continue:
        """One run of a job with this payload."""
        return run_once(run, Params.model_validate(payload), context or self.context())

    def run(self, handler: ModuleType, context: FakeContext | None = None, **payload: Any) -> Done | Continue:
        """One run of a job of this handler with this payload."""
        return run_once(handler.run, handler.Params.model_validate(payload), context or self.context())

    def lap(self, handler: ModuleType, context: FakeContext | None = None, **payload: Any) -> Done:
        """Runs of one job until it is done. The people that are left are checked again as if the wait were over."""
        context = context or self.context()
        outcome = self.run(handler, context, **payload)
        while isinstance(outcome, Continue):
            self.an_hour_later()
            context = self.successor(context)
            outcome = self.run(handler, context, **payload)
        return outcome

    def an_hour_later(self) -> None:
        """Whatever the ledger of onboarding waits for has passed."""
        self.conn.execute(
            "update game_platform_onboarding set sent_at = sent_at - interval '1 hour', "
            "updated_at = updated_at - interval '1 hour'"
        )

    def successor(self, context: FakeContext) -> FakeContext:
        """The context of the next run of the same job: its checkpoint, and a token of its own."""
        after = self.context(context.checkpoint, context.job.id)
        after.job = after.job._replace(run_token=context.job.run_token + 1)
        context.job = after.job
        return after

    def created(self) -> Counter[str | None]:
        """How many accounts the vendor was asked for and answered to have created, by id."""
        return Counter(
            seen.user for seen in self.sandbox.requests if (seen.method, seen.path) == ("POST", "/users")
            and seen.status == 201
        )  # fmt: skip

    def attempt(self, person: UUID) -> Json:
        return self.conn.row("select * from game_platform_onboarding where person_id = %s", person)

    def mutations(self) -> list[str]:
        """The requests that asked the vendor for a change."""
        return [f"{seen.method} {seen.path}" for seen in self.sandbox.requests if seen.mutating]

    def state(self, person: str) -> Json:
        return self.conn.row("select * from game_platform_sync_state where synced_user_id = %s", person)

    def mapping(self, person: str | UUID) -> Json:
        return self.conn.row("select * from game_platform_profiles where competitor_id = %s", person)

    def person(self, person: str | UUID) -> Json:
        return self.conn.row("select * from competitors where id = %s", person)

    def stored(self, person: str, source: str = "odl") -> list[tuple[str, int]]:
        """Event and solve id of what is stored of a person."""
        return self.conn.execute(
            "select event_id, challenge_solve_id from game_platform_challenge_solves "
            "where synced_user_id = %s and source = %s order by 1, 2",
            (person, source),
        ).fetchall()

    def everything(self) -> dict[str, list[str]]:
        """Every row of every table as text, with its version."""
        return {
            table: [
                row[0]
                for row in self.conn.execute(
                    f"select t::text || ' ' || t.xmin::text || t.ctid::text from {table} t order by 1".encode()  # noqa: S608 -- names from the list above
                )
            ]
            for table in TABLES
        }

    def asked(self, path: str = "") -> list[tuple[str, str | None]]:
        """Path and person of the requests whose path contains a text."""
        return [(seen.path, seen.user) for seen in self.sandbox.requests if path in seen.path]
