"""The summary of a sync run: exact counts, and a bounded number of errors and examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobdeck.core.programme.sync.rules import ERRORS_TOLD, SAMPLE
from jobdeck.core.redact import safe_error

if TYPE_CHECKING:
    from jobdeck.core.programme.sync.store import Result
    from jobdeck.core.programme.sync.teams import TeamResult

Json = dict[str, Any]


@dataclass(slots=True)
class Tally:
    people: Counter[str] = field(default_factory=Counter)
    teams: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    errors: list[Json] = field(default_factory=list)
    team_errors: list[Json] = field(default_factory=list)
    sample: list[Json] = field(default_factory=list)
    failed: int = 0
    teams_failed: int = 0

    def add(self, result: Result) -> None:
        self.people[result.status] += 1
        self.failed += result.failed
        for name in ("new_solves", "new_events", "collisions", "events_without_start"):
            self.moved[name] += getattr(result, name)
        line = {"competitorId": str(result.competitor_id), "status": result.status}
        if result.failed and len(self.errors) < ERRORS_TOLD:
            self.errors.append(line | {"message": safe_error(result.message or "", 300)})
        elif result.status == "synced" and len(self.sample) < SAMPLE:
            self.sample.append(line)

    def add_team(self, result: TeamResult) -> None:
        self.teams[result.status] += 1
        self.teams_failed += result.failed
        for name in ("assigned", "unassigned", "members_without_account"):
            self.moved[name] += getattr(result, name)
        if result.failed and len(self.team_errors) < ERRORS_TOLD:
            line = {"teamId": str(result.team_id), "status": result.status}
            self.team_errors.append(line | {"message": safe_error(result.message or "", 300)})

    def output(self) -> Json:
        """The run's output, as JSON."""
        people, moved = self.people, self.moved
        return {
            "competitors": {
                "total": people.total(),
                "synced": people["synced"],
                "unchanged": people["unchanged"],
                "skipped": people["not_active"],
                "failed": self.failed,
                "byStatus": dict(sorted(people.items())),
                "newSolves": moved["new_solves"],
                "newEvents": moved["new_events"],
                "collisions": moved["collisions"],
                "eventsWithoutStart": moved["events_without_start"],
                "errors": self.errors,
                "sample": self.sample,
            },
            "teams": {
                "total": self.teams.total(),
                "synced": self.teams["synced"] + self.teams["created"],
                "failed": self.teams_failed,
                "byStatus": dict(sorted(self.teams.items())),
                "assigned": moved["assigned"],
                "unassigned": moved["unassigned"],
                "membersWithoutAccount": moved["members_without_account"],
                "errors": self.team_errors,
            },
        }
