"""What the queue promises, written from its contract and not from its SQL.

A `Reading` holds every row of the queue at one moment. The functions here say what a step may make of a row
(`Fate`), and what must be true of any reading (`broken_promises`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.rows import dict_row

from jobdeck.core.model import Json, RunOutcome
from jobdeck.core.read.jobs import counts
from tests.support.queue import Connection

Row = dict[str, Any]
Change = dict[str, Any]

ACTIVE: Final = ("pending", "running")
SUCCESS: Final = ("succeeded", "partial")
RETENTION: Final = timedelta(days=30)
TRASH_RETENTION: Final = timedelta(days=7)
UNSEEN: Final = frozenset({"in_line", "version", "updated_at", "slot_at"})
"""Columns that the model does not follow: the place in a line, marks of a change, the slot that a retry serves."""

READ: Final = {
    "jobs": "SELECT * FROM job_queue ORDER BY id",
    "runs": "SELECT * FROM job_runs ORDER BY run_token, late",
    "trash": "SELECT (jsonb_populate_record(NULL::job_queue, job)).*, deleted_at FROM job_trash ORDER BY job_id",
    "audit": "SELECT id, at, action, job_id FROM job_audit ORDER BY id",
    "switch": "SELECT * FROM job_queue_settings",
    "pauses": "SELECT * FROM job_paused_types ORDER BY task_type",
}

_TIMES: Final = {
    "job_queue": ("run_at", "created_at", "updated_at", "completed_at", "expires_at", "last_run_at",
                  "lease_expires_at", "started_at", "cancel_requested_at", "anchor_at", "last_success_at", "slot_at"),
    "job_queue_settings": ("updated_at", "paused_at", "resume_at"),
    "job_types": ("paused_at", "resume_at", "limited_at", "rate_until"),
    "job_canaries": ("asked_at",),
    "job_holds": ("held_at", "until"),
    "job_notes": ("at", "until", "acknowledged_at"),
    "job_error_mutes": ("at", "until"),
    "job_runs": ("due_at", "started_at", "finished_at"),
    "job_trash": ("deleted_at",),
    "job_audit": ("at",),
    "job_workers": ("started_at", "heartbeat_at"),
    "job_worker_runs": ("started_at", "completed_at"),
    "job_upkeep": ("succeeded_at", "failed_at"),
    "job_recheck": ("due_at",),
    "job_poison": ("since", "retry_at"),
    "job_stat_delta": ("minute", "first_at", "last_at"),
    "job_stats": ("first_at", "last_at", "bucket"),
    "job_stat_errors": ("bucket",),
    "job_error_groups": ("first_at", "last_at"),
    "job_backlog": ("bucket",),
    "job_key_rates": ("used_until",),
    "job_unique_keys": ("until",),
    "job_failing_types": ("since", "calm_since", "judged_at", "last_at", "last_failed_at", "new_since"),
}  # fmt: skip


def install_clock(conn: Connection) -> None:
    """Makes `move_clock(interval)`: time goes on for the queue because all that it remembers is put back."""
    updates = [
        f"UPDATE {table} SET {', '.join(f'{name} = {name} - by' for name in names)};"  # noqa: S608 -- names from above
        for table, names in _TIMES.items()
        if "bucket" not in names
    ]
    # A bucket is a part of the key: it moves out of the way of the others first.
    updates += [
        f"UPDATE {table} SET {', '.join(f'{name} = {name} - by' for name in names)}"  # noqa: S608 -- names from above
        " - interval '1000 years';"
        f"UPDATE {table} SET bucket = bucket + interval '1000 years';"
        for table, names in _TIMES.items()
        if "bucket" in names
    ]
    kept = ", ".join(f"'{name}', (job ->> '{name}')::timestamptz - by" for name in _TIMES["job_queue"])
    conn.execute(
        f"""
        CREATE FUNCTION move_clock(by interval) RETURNS void LANGUAGE sql AS $$
            {"".join(updates)}
            UPDATE job_trash SET job = job || jsonb_build_object({kept});
        $$;
        CREATE FUNCTION forget_everything() RETURNS void LANGUAGE sql AS $$
            TRUNCATE job_queue, job_runs, job_trash, job_audit, job_queue_settings, job_types, job_canaries,
                job_workers, job_worker_runs, job_stats, job_stat_delta, job_stat_errors,
                job_error_groups, job_backlog, job_recheck, job_poison, job_key_rates,
                job_unique_keys;
            UPDATE job_upkeep SET succeeded_at = clock_timestamp(), failed_at = NULL, trouble = NULL;
            INSERT INTO job_queue_settings (id) VALUES (1);
            SELECT setseed(0.5)::text;
        $$
        """.encode()  # noqa: S608 -- the same
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """Every row that the queue keeps, at one moment of the database's clock."""

    at: datetime
    jobs: Mapping[UUID, Row]
    runs: Mapping[tuple[int, bool], Row]
    trash: Mapping[UUID, Row]
    audit: Mapping[int, Row]
    switch: Row | None
    pauses: Mapping[str, Row]

    def holds(self, job_id: UUID, token: int) -> bool:
        """Whether the token is the one of a running job."""
        row = self.jobs.get(job_id)
        return row is not None and row["status"] == "running" and row["run_token"] == token

    def is_open(self, task_type: str, at: datetime) -> bool:
        """Whether jobs of this type may be claimed at a moment, as far as switch and pauses go."""
        if self.switch is None:
            return False
        resume_at = self.switch["resume_at"]
        if not self.switch["processing_enabled"] and (resume_at is None or resume_at > at):
            return False
        pause = self.pauses.get(task_type)
        return pause is None or (pause["resume_at"] is not None and pause["resume_at"] <= at)

    def busy_keys(self) -> set[str]:
        """The concurrency keys of running jobs."""
        return {row["concurrency_key"] for row in self.jobs.values() if row["status"] == "running"} - {None}

    def claimable(self, *, at: datetime, busy: set[str]) -> dict[UUID, Row]:
        """The jobs that a worker of every type may be given at a moment; of a key, all that are due."""
        return {
            job_id: row
            for job_id, row in self.jobs.items()
            if row["status"] == "pending"
            and row["run_at"] <= at
            and (row["expires_at"] is None or row["expires_at"] > at)
            and row["blocked_by"] is None
            and row["concurrency_key"] not in busy
            and self.is_open(row["task_type"], at)
        }


def read(conn: Connection) -> Reading:
    """Reads everything, and the clock last, so that whatever has happened lies before it."""
    found: dict[str, list[Row]] = {}
    with conn.cursor(row_factory=dict_row) as cursor:
        for name, statement in READ.items():
            found[name] = cursor.execute(statement.encode()).fetchall()
        at = cursor.execute("SELECT clock_timestamp() AS at").fetchall()[0]["at"]
    return Reading(
        at=at,
        jobs={row["id"]: row for row in found["jobs"]},
        runs={(row["run_token"], row["late"]): row for row in found["runs"]},
        trash={row["id"]: row for row in found["trash"]},
        audit={row["id"]: row for row in found["audit"]},
        switch=next(iter(found["switch"]), None),
        pauses={row["task_type"]: row for row in found["pauses"]},
    )


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment to another: when a step was done, or a time that depends on it."""

    low: datetime
    high: datetime

    def plus(self, least: float, most: float | None = None) -> Span:
        """This span, so many seconds later."""
        return Span(
            self.low + timedelta(seconds=least) - timedelta(milliseconds=1),
            self.high + timedelta(seconds=least if most is None else most) + timedelta(milliseconds=1),
        )


ANYTHING: Final = object()


def fits(value: object, wanted: object) -> bool:
    """Whether a column holds what was expected of it."""
    if isinstance(wanted, Span):
        return isinstance(value, datetime) and wanted.low <= value <= wanted.high
    return wanted is ANYTHING or value == wanted


def differences(before: Row, after: Row, change: Change, *, version: int = 1) -> list[str]:
    """Where a row is not what `change` makes of it; columns that `change` does not name must be as before."""
    wanted = {name: before[name] for name in after if name not in UNSEEN} | change
    wrong = [f"{name}: {after[name]!r}, not {want!r}" for name, want in wanted.items() if not fits(after[name], want)]
    if after["version"] != before["version"] + version:
        wrong.append(f"version: {after['version']}, not {before['version'] + version}")
    return wrong


def next_slot(anchor: datetime, minutes: int, after: datetime) -> datetime:
    """The first of anchor, anchor + interval, anchor + 2 intervals … that lies after a moment."""
    if anchor > after:
        return anchor
    interval = timedelta(minutes=minutes)
    return anchor + interval * ((after - anchor) // interval + 1)


@dataclass(frozen=True, slots=True)
class Told:
    """What is reported of one run, by its worker or (`lost`) by the reaper. Seconds where numbers."""

    outcome: RunOutcome
    output: Json | None = None
    checkpoint: Json | None = None
    delay: float = 0.0
    retry_after: float | None = None
    permanent: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """One thing that may become of a job: what its run is recorded as, and how its row changes (None: it is gone)."""

    recorded: str
    change: Change | None

    @property
    def hopeless(self) -> bool:
        """Whether jobs that wait for this one wait in vain."""
        return self.change is not None and self.change["status"] in {"failed", "cancelled"}

    @property
    def success(self) -> bool:
        """Whether jobs that wait for this one may go on."""
        return self.recorded in SUCCESS


_FREED: Final = dict.fromkeys(
    ("locked_by", "run_token", "lease_expires_at", "started_at", "cancel_requested_at", "cancel_requested_by",
     "progress", "completed_at")
)  # fmt: skip


def fates(row: Row, told: Told, done: Span, *, base: float, cap: float) -> list[Fate]:
    """The table of outcomes: what may become of a running job of which `told` is reported."""
    outcome = told.outcome.value
    freed = _FREED | {"last_run_at": done, "last_run_dry": False}
    lost = told.outcome is RunOutcome.LOST
    if row["cancel_requested_at"] is not None or outcome == "cancelled":
        recorded = "lost" if lost else "cancelled"
        return [Fate(recorded, freed | {"status": "cancelled", "completed_at": done, "last_outcome": recorded})]
    if outcome in SUCCESS:
        if not row["is_recurring"]:
            return [Fate(outcome, None)]
        gained = {"output": told.output, "last_error": None, "last_success_at": done, "consecutive_failures": 0,
                  "fingerprint": None}  # fmt: skip
        return [
            Fate(outcome, freed | end | gained | {"last_outcome": outcome})
            for end in _cycle_ends(row, done, over="succeeded")
        ]
    if outcome == "continued":
        kept = {"status": "pending", "run_at": done.plus(told.delay), "attempts": 0, "checkpoint": told.checkpoint}
        return [Fate(outcome, freed | kept | {"last_error": None, "fingerprint": None, "last_outcome": outcome})]
    if outcome in {"released", "snoozed"}:
        kept = {name: row[name] for name in ("last_run_at", "last_run_dry")}
        back = freed | kept | {"status": "pending", "attempts": row["attempts"] - 1, "last_outcome": outcome}
        due: list[Change] = [{}]
        if outcome == "snoozed":
            due = [{"run_at": run_at} for run_at in _put_off(row, done, told.delay)]
        return [Fate(outcome, back | change) for change in due]
    return _failures(row, told, done, base=base, cap=cap)


def _put_off(row: Row, done: Span, delay: float) -> list[Span | datetime]:
    """When a job that was put off may be due: after the delay, and in a series at its next slot at the latest."""
    wanted = done.plus(delay)
    if not row["is_recurring"]:
        return [wanted]
    anchor = row["anchor_at"] or row["run_at"]
    slots = {next_slot(anchor, row["recurrence_interval_minutes"], at) for at in (done.low, done.high)}
    return [*([wanted] if wanted.low < max(slots) else []), *(slot for slot in slots if slot <= wanted.high)]


def _cycle_ends(row: Row, done: Span, *, over: str) -> list[Change]:
    """How a series goes on after a cycle: at the next slot, or not when that lies at or behind its end."""
    anchor = row["anchor_at"] or row["run_at"]
    slots = {next_slot(anchor, row["recurrence_interval_minutes"], at) for at in (done.low, done.high)}
    common = {"cycle": row["cycle"] + 1, "checkpoint": None}
    return [
        common | {"status": over, "completed_at": done}
        if row["expires_at"] is not None and slot >= row["expires_at"]
        else common | {"status": "pending", "run_at": slot, "attempts": 0}
        for slot in slots
    ]


def backoff(attempt: int, base: float, cap: float) -> tuple[float, float]:
    """The least and the most seconds to wait after the attempt of this number, counted from 1."""
    full = min(cap, base * 2 ** (attempt - 1))
    return full / 2, full


def _failures(row: Row, told: Told, done: Span, *, base: float, cap: float) -> list[Fate]:
    lost = told.outcome is RunOutcome.LOST
    freed = _FREED | {"last_run_at": done, "last_run_dry": False, "fingerprint": ANYTHING,
                      "last_error": ANYTHING if lost else told.error}  # fmt: skip
    outcome = "lost" if lost else "failed"
    failed = freed | {"last_outcome": outcome}
    if row["is_recurring"]:
        ends = [
            Fate(outcome, failed | end | {"consecutive_failures": row["consecutive_failures"] + 1})
            for end in _cycle_ends(row, done, over="failed")
        ]
    else:
        end = {"status": "failed", "completed_at": done, "consecutive_failures": ANYTHING}
        ends = [Fate(outcome, failed | end)]
    if told.permanent or row["attempts"] >= row["max_attempts"]:
        return ends
    least, most = backoff(row["attempts"], base, cap)
    if told.retry_after is not None:
        least = most = told.retry_after
    again = done.plus(least, most)
    recorded = "lost" if lost else "retried"
    retried = Fate(recorded, freed | {"status": "pending", "run_at": again, "last_outcome": recorded})
    if not row["is_recurring"]:
        return [retried]
    limit = next_slot(row["anchor_at"], row["recurrence_interval_minutes"], done.high)
    limit = min(limit, row["expires_at"] or limit)
    if again.high < limit:
        return [retried]
    return ends if again.low >= limit else [retried, *ends]


def expired(change: Row) -> Change:
    """What the reaper makes of a pending job whose end has passed."""
    if not change["is_recurring"]:
        return {"status": "cancelled", "completed_at": ANYTHING, "last_error": ANYTHING}
    return {"status": "failed" if change["consecutive_failures"] else "succeeded", "completed_at": ANYTHING}


def claim_order(row: Row) -> tuple[int, datetime, UUID]:
    """What claims sort by."""
    return -row["priority"], row["run_at"], row["id"]


class Draft:
    """What the rows must look like after a step, drawn up from how they were before it."""

    def __init__(self, before: Reading) -> None:
        self.before = before
        self.changes: dict[UUID, Change] = {}
        self.versions: dict[UUID, int] = {}
        self.gone: set[UUID] = set()
        self.created: set[UUID] = set()
        self.trash = dict(before.trash)
        self.runs: dict[tuple[int, bool], tuple[UUID, str]] = {}
        self.audit: list[tuple[str, UUID | None]] = []

    def row(self, job_id: UUID) -> Row | None:
        """A job as it stands in the draft; None when it is not in the queue."""
        if job_id not in self.before.jobs or job_id in self.gone:
            return None
        return dict(self.before.jobs[job_id]) | self.changes.get(job_id, {})

    def rows(self) -> dict[UUID, Row]:
        """All jobs as they stand in the draft."""
        return {job_id: row for job_id in self.before.jobs if (row := self.row(job_id)) is not None}

    def alter(self, job_id: UUID, change: Change, *, version: int = 1) -> None:
        """Changes some columns of a job."""
        self.changes[job_id] = self.changes.get(job_id, {}) | change
        self.versions[job_id] = self.versions.get(job_id, 0) + version

    def settle(self, job_id: UUID, fate: Fate) -> None:
        """Lets a running job meet its fate."""
        if fate.change is None:
            self.gone.add(job_id)
        else:
            self.alter(job_id, fate.change)

    def release(self, succeeded: Iterable[UUID]) -> None:
        """Jobs that waited for these wait no longer."""
        for job_id in self._waiters(set(succeeded)):
            self.alter(job_id, {"blocked_by": None})

    def condemn(self, hopeless: Iterable[UUID]) -> None:
        """Jobs that waited for these are cancelled, and those that waited for them, and so on."""
        ended = set(hopeless)
        while ended:
            ended = self._waiters(ended)
            for job_id in ended:
                gone = {"status": "cancelled", "last_outcome": "cancelled"}
                self.alter(job_id, gone | {"completed_at": ANYTHING, "last_error": ANYTHING})

    def _waiters(self, blockers: set[UUID]) -> set[UUID]:
        rows = self.rows().items()
        return {job_id for job_id, row in rows if row["status"] == "pending" and row["blocked_by"] in blockers}

    def end_expired(self) -> int:
        """Ends what waits past its end, as the reaper does; how many."""
        past = {
            job_id: row
            for job_id, row in self.rows().items()
            if row["status"] == "pending" and row["expires_at"] is not None and row["expires_at"] <= self.before.at
        }
        ends = {job_id: expired(row) for job_id, row in past.items()}
        for job_id, change in ends.items():
            self.alter(job_id, change)
        self.condemn(ends)
        return len(past)

    def verdict_on(self, blocker: UUID) -> str:
        """Whether a job behind this one waits on (`live`), may run (`done`), or waits in vain (`vain`).

        A series has ended well only if its last success ended it.
        """
        row = self.row(blocker)
        if row is not None:
            success, end = row["last_success_at"], row["completed_at"]
            if row["status"] in ACTIVE:
                return "live"
            expired = isinstance(end, datetime) and isinstance(success, datetime) and success < end
            return "done" if row["status"] == "succeeded" and success is not None and not expired else "vain"
        left = any(run["job_id"] == blocker and run["removed"] for run in self.before.runs.values())
        leaves = any(job_id == blocker and outcome in SUCCESS for job_id, outcome in self.runs.values())
        return "done" if left or leaves else "vain"

    def mend(self) -> None:
        """Judges jobs that wait for one that is over or gone, as the reaper does."""
        blockers = {row["blocked_by"] for row in self.rows().values() if row["status"] == "pending"} - {None}
        verdicts = {blocker: self.verdict_on(blocker) for blocker in blockers}
        self.release(blocker for blocker, verdict in verdicts.items() if verdict == "done")
        self.condemn(blocker for blocker, verdict in verdicts.items() if verdict == "vain")

    def problems(self, after: Reading) -> list[str]:
        """Where what is there differs from the draft."""
        wrong = [f"job {job_id} is there, and nobody enqueued it" for job_id in self._unexpected(after)]
        for job_id, before in self.before.jobs.items():
            row = after.jobs.get(job_id)
            if row is None or job_id in self.gone:
                if (row is None) != (job_id in self.gone):
                    wrong.append(f"job {job_id} {'is lost' if row is None else 'should have left the queue'}")
                continue
            change, version = self.changes.get(job_id, {}), self.versions.get(job_id, 0)
            wrong += [f"job {job_id}: {what}" for what in differences(before, row, change, version=version)]
        return [*wrong, *self._evidence_problems(after)]

    def _unexpected(self, after: Reading) -> set[UUID]:
        return set(after.jobs) - set(self.before.jobs) - self.created

    def _evidence_problems(self, after: Reading) -> Iterable[str]:
        old = after.at - RETENTION
        for key, run in self.before.runs.items():
            if key not in after.runs and run["finished_at"] > old:
                yield f"run {key} was taken away"
            elif after.runs.get(key, run) != run:
                yield f"run {key} was changed"
        added = {key: (run["job_id"], run["outcome"]) for key, run in after.runs.items() if key not in self.before.runs}
        if added != self.runs:
            yield f"the history has gained {added}, not {self.runs}"
        acted = [(row["action"], row["job_id"]) for key, row in after.audit.items() if key not in self.before.audit]
        if sorted(acted, key=str) != sorted(self.audit, key=str):
            yield f"the audit has gained {acted}, not {self.audit}"
        kept = {job_id for job_id, row in self.trash.items() if row["deleted_at"] > after.at - TRASH_RETENTION}
        if not kept <= set(after.trash) <= set(self.trash):
            yield f"the trash holds {set(after.trash)}, not {set(self.trash)}"
        for job_id in set(after.trash) & set(self.trash):
            if differences(self.trash[job_id], after.trash[job_id], {"deleted_at": ANYTHING}, version=0):
                yield f"job {job_id} is not in the trash as it was in the queue"


def dangling(reading: Reading) -> set[tuple[UUID, UUID]]:
    """Jobs that wait for one which is over or gone, each with that one."""
    active = {job_id for job_id, row in reading.jobs.items() if row["status"] in ACTIVE}
    return {
        (row["id"], row["blocked_by"])
        for row in reading.jobs.values()
        if row["status"] == "pending" and row["blocked_by"] is not None and row["blocked_by"] not in active
    }


def broken_promises(conn: Connection, reading: Reading) -> list[str]:
    """What must be true at any time, and is not."""
    jobs = reading.jobs.values()
    broken = [problem for row in jobs for problem in _row_problems(row)]
    for what, column, statuses in (
        ("run at once with the key", "concurrency_key", ("running",)),
        ("are active with the dedupe key", "dedupe_key", ACTIVE),
    ):
        values = [row[column] for row in jobs if row["status"] in statuses and row[column] is not None]
        broken += [f"{values.count(value)} jobs {what} {value}" for value in set(values) if values.count(value) > 1]
    broken += _run_problems(reading)
    shown = counts().run(conn)
    found = [row["status"] for row in jobs]
    broken += [
        f"counts() says {getattr(shown, status)} {status}, there are {found.count(status)}"
        for status in ("pending", "running", "succeeded", "failed", "cancelled")
        if getattr(shown, status) != found.count(status)
    ]
    removed = sum(run["removed"] for run in reading.runs.values())
    if shown.removed != removed:
        broken.append(f"counts() says {shown.removed} removed, there are {removed}")
    return broken


def _row_problems(row: Row) -> Iterable[str]:
    running = row["status"] == "running"
    if not running and row["started_at"] is not None:
        yield f"{row['id']} is {row['status']} and has begun"
    for column in ("run_token", "lease_expires_at", "locked_by"):
        if running != (row[column] is not None):
            yield f"{row['id']} is {row['status']} and its {column} is {row[column]!r}"
    if row["cancel_requested_at"] is not None and not running:
        yield f"{row['id']} is {row['status']} and was asked to cancel"
    if running and row["blocked_by"] is not None:
        yield f"{row['id']} runs while it waits for {row['blocked_by']}"
    if row["status"] in ACTIVE and (row["completed_at"] is not None):
        yield f"{row['id']} is {row['status']} and completed"
    if row["status"] not in ACTIVE and row["completed_at"] is None:
        yield f"{row['id']} is {row['status']} and not completed"
    if row["status"] == "pending" and row["in_line"] and row["concurrency_key"] is None:
        yield f"{row['id']} stands in a line without a key"


def _run_problems(reading: Reading) -> Iterable[str]:
    verdicts = [run for (_, late), run in reading.runs.items() if not late]
    for (token, late), run in reading.runs.items():
        if late and reading.runs.get((token, False), {"outcome": "lost"})["outcome"] != "lost":
            yield f"run {token} is recorded as abandoned and was not lost"
        if not late and run["removed"] != (run["removed"] and run["outcome"] in SUCCESS):
            yield f"run {token} removed its job and is recorded as {run['outcome']}"
    gone = [run["job_id"] for run in verdicts if run["removed"]]
    yield from (f"job {job_id} succeeded {gone.count(job_id)} times" for job_id in set(gone) if gone.count(job_id) > 1)
    yield from (f"job {job_id} succeeded, left the queue and is in it" for job_id in set(gone) & set(reading.jobs))
    held = {row["run_token"] for row in reading.jobs.values()} - {None}
    yield from (f"run {run['run_token']} is over and holds its job" for run in verdicts if run["run_token"] in held)
