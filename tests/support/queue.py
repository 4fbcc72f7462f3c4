"""Steps that the tests of the queue share: enqueue, claim, finish, look at rows, let time pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from jobdeck.core.model import ClaimedJob, FinishedRun, Job, NewJob, RunOutcome
from jobdeck.core.queue import leases, service
from jobdeck.core.queue.leases import Finished
from tests.support.waiting import PATIENCE

Row = dict[str, Any]

ACTOR = "mara@local"
WORKER = "worker-1"
LEASE = 60.0
BASE = 30.0
CAP = 3600.0
OUT_OF_THE_WAY = timedelta(days=400_000)
# A series without slots is due beyond all clocks.
MOVED = sql.SQL("{0} = CASE WHEN {0} < '9999-12-30 00:00+00' THEN {0} + {1} ELSE {0} END")
MOVED_LIST = sql.SQL("{0} = CASE WHEN {0} IS NOT NULL THEN ARRAY(SELECT t + {1} FROM unnest({0}) AS t ORDER BY t) END")


def usual(table: str) -> dict[str, Any]:
    """What a row of this table has unless a test says otherwise. Every name has a mark that no output may have."""
    if table == "profiles":
        names = dict.fromkeys(("full_name", "first_name", "last_name", "school_name"), "Zz")
        return {"email": f"zz{uuid4()}@example.org", **names}
    rows: dict[str, dict[str, Any]] = {
        "competitors": {"first_name": "Zz", "last_name": "Zz"},
        "competitor_announcement_campaigns": {"subject": "Zz", "body_markdown": "Zz", "body_html": "Zz"},
        "job_workers": {"id": "w", "host": "h", "pid": 1, "mode": "worker", "version": "1", "concurrency": 1,
                        "task_types": "{alpha}", "started_at": ago("1 hour")},
    }  # fmt: skip
    return rows.get(table, {})


def ago(interval: str) -> sql.Composed:
    """The time so long before now, as a value of a row."""
    return sql.SQL("now() - {}::interval").format(interval)


def report(claimed: ClaimedJob, outcome: str = "succeeded", **fields: Any) -> FinishedRun:
    """What a worker reports of a run."""
    told: dict[str, Any] = {
        "job_id": claimed.id,
        "run_token": claimed.run_token,
        "outcome": RunOutcome(outcome),
        "started": claimed.claimed_at.timestamp(),
        "finished": claimed.claimed_at.timestamp() + 2.0,
    }
    return FinishedRun(**(told | fields))


def moment(claimed: ClaimedJob) -> tuple[float, float]:
    """Start and end of a run that was over as soon as it was claimed."""
    return claimed.claimed_at.timestamp(), claimed.claimed_at.timestamp()


class Connection(psycopg.Connection[Any]):
    """A connection to the database of a test, with the steps that the tests of the queue share."""

    def rows(self, statement: Any, *params: Any) -> list[Row]:
        """The rows of one statement, each by column name."""
        with self.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, params).fetchall()

    def row(self, statement: Any, *params: Any) -> Row:
        """The only row of a statement."""
        found = self.rows(statement, *params)
        assert len(found) == 1
        return found[0]

    def value(self, statement: Any, *params: Any) -> Any:
        """The first column of the only row of a statement."""
        found = self.execute(statement, params).fetchall()
        assert len(found) == 1
        return found[0][0]

    def insert(self, table: str, **values: Any) -> Any:
        """Inserts a row that has the usual values beside these, and returns its first column."""
        given = {
            name: Jsonb(value) if isinstance(value, dict | list) else value
            for name, value in (usual(table) | values).items()
        }
        return self.value(
            sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, given)),
                sql.SQL(", ").join(v if isinstance(v, sql.Composable) else sql.Placeholder() for v in given.values()),
            ),
            *(value for value in given.values() if not isinstance(value, sql.Composable)),
        )

    def now(self) -> datetime:
        """The database's time."""
        found: datetime = self.value("SELECT clock_timestamp()")
        return found

    def advance(self, delta: timedelta) -> None:
        """Lets time pass: the product has no clock to set, so everything that has happened moves into the past."""
        with self.transaction():
            # Without tables that were never written to: they are most, and to ask for one costs as much as a change.
            tables = self.execute(
                """
                SELECT c.relname, array_agg(a.attname::text), array_agg(a.atttypid = 'timestamptz[]'::regtype)
                FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
                WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND starts_with(c.relname, 'job_')
                    AND a.atttypid IN ('timestamptz'::regtype, 'timestamptz[]'::regtype) AND pg_relation_size(c.oid) > 0
                GROUP BY 1
                """
            ).fetchall()
            # In two steps, because a row may land on the key of another that has still to move.
            steps = [
                sql.SQL("UPDATE {} SET {}").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(
                        (MOVED_LIST if is_list else MOVED).format(sql.Identifier(name), sql.Literal(shift))
                        for name, is_list in zip(columns, lists, strict=True)
                    ),
                )
                for table, columns, lists in tables
                for shift in (-OUT_OF_THE_WAY, OUT_OF_THE_WAY - delta)
            ]
            self.execute(sql.SQL("; ").join(steps))

    def add(self, task_type: str = "alpha", **fields: Any) -> Job:
        """Enqueues one job. A series gets a dedupe key, because two without one must differ in payload or interval."""
        if fields.get("recurrence_interval_minutes"):
            fields.setdefault("dedupe_key", str(uuid4()))
        return service.enqueue(self, NewJob(task_type=task_type, **fields), actor=ACTOR).job

    def add_waiting(self, since: datetime, task_type: str = "alpha", **fields: Any) -> Job:
        """Enqueues one job that has waited since this time: it was due, and in the queue."""
        job = self.add(task_type, run_at=since, **fields)
        self.execute("UPDATE job_queue SET created_at = run_at WHERE id = %s", (job.id,))
        return replace(job, created_at=since)

    def job_row(self, job_id: UUID) -> Row:
        """A row of `job_queue`; fails when it is not there."""
        return self.row("SELECT * FROM job_queue WHERE id = %s", job_id)

    def is_queued(self, job_id: UUID) -> bool:
        """Whether the queue holds the job."""
        return bool(self.value("SELECT count(*) FROM job_queue WHERE id = %s", job_id))

    def run_rows(self, job_id: UUID) -> list[Row]:
        """The history of one job, oldest first."""
        return self.rows("SELECT * FROM job_runs WHERE job_id = %s ORDER BY run_token, late", job_id)

    def last_run(self, job_id: UUID) -> Row:
        """The newest run of a job."""
        return self.row("SELECT * FROM job_runs WHERE job_id = %s ORDER BY run_token DESC, late LIMIT 1", job_id)

    def outcomes(self, job_id: UUID | None = None) -> list[str]:
        """What was recorded of a job, or of all, in the order of the runs."""
        which = "WHERE %s::uuid IS NULL OR job_id = %s ORDER BY run_token, late"
        return [run["outcome"] for run in self.rows(f"SELECT outcome FROM job_runs {which}", job_id, job_id)]  # noqa: S608

    def status_of(self, job_id: UUID) -> str | None:
        """A job's status; None when it has left the queue."""
        return next((row["status"] for row in self.rows("SELECT status FROM job_queue WHERE id = %s", job_id)), None)

    def audit_rows(self, action: str | None = None) -> list[Row]:
        """The audit, oldest first."""
        return self.rows("SELECT * FROM job_audit WHERE %s::text IS NULL OR action = %s ORDER BY id", action, action)

    def claim(
        self,
        types: Sequence[str] = ("alpha",),
        *,
        limit: int = 10,
        worker: str = WORKER,
        lease: float = LEASE,
        fronts: Mapping[leases.Lane, leases.Front] | None = None,
        free: int | None = None,
    ) -> list[ClaimedJob]:
        """One claim."""
        return leases.claim(self, worker, types, limit, lease, fronts, free=free)

    def begun(self) -> set[UUID]:
        """The jobs whose runs have begun."""
        return {row["id"] for row in self.rows("SELECT id FROM job_queue WHERE started_at IS NOT NULL")}

    def claim_one(self, types: Sequence[str] = ("alpha",), *, worker: str = WORKER) -> ClaimedJob:
        """Claims the only claimable job."""
        claimed = self.claim(types, worker=worker)
        assert len(claimed) == 1
        return claimed[0]

    def just_stepped(self) -> None:
        """Makes it a minute until another worker may take over a bulk action, however slow this machine is."""
        self.execute("UPDATE job_bulk SET stepped_at = clock_timestamp() + interval '1 minute' WHERE state = 'running'")

    def ended_now(self) -> None:
        """Counts all runs as of this minute; `report` has them end in two seconds, which may be in the next one."""
        self.execute("UPDATE job_stat_delta SET minute = job_stat_bucket(1, now())")

    def finish(self, *runs: FinishedRun, worker: str = WORKER) -> list[Finished]:
        """Reports runs in one batch."""
        return leases.finish(self, worker, runs, retry_base=BASE, retry_cap=CAP)

    def finish_one(self, claimed: ClaimedJob, outcome: str = "succeeded", **fields: Any) -> Finished:
        """Reports one run and returns the answer."""
        answers = self.finish(report(claimed, outcome, **fields))
        assert [answer.run_token for answer in answers] == [claimed.run_token]
        return answers[0]

    def run_once(self, types: Sequence[str] = ("alpha",), outcome: str = "succeeded", **fields: Any) -> Finished:
        """Claims the only claimable job and reports its run."""
        return self.finish_one(self.claim_one(types), outcome, **fields)

    def reap(self) -> leases.Reaped:
        """One pass of the reaper."""
        return leases.reap(self, retry_base=BASE, retry_cap=CAP)

    def lose(self) -> leases.Reaped:
        """Lets all leases run out, and reaps."""
        self.advance(timedelta(seconds=LEASE + 1))
        return self.reap()

    def contents(self, *tables: str, without: Sequence[str] = ()) -> dict[str, str]:
        """The rows of each table (of all, if none is named) as lines of text in the order of the alphabet."""
        names = tables or tuple(
            name
            for (name,) in self.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
                "AND NOT relispartition ORDER BY relname"
            ).fetchall()
        )
        # In one statement, and without tables that were never written to: to ask for a table costs more than its rows.
        asked = self.execute(
            "SELECT relname FROM pg_class WHERE (relkind <> 'r' OR pg_relation_size(oid) > 0) "
            "AND oid = ANY (SELECT format('public.%%I', name)::regclass FROM unnest(%s::text[]) AS name)",
            [list(names)],
        ).fetchall()
        row = sql.SQL("(to_jsonb(x) - {}::text[])::text").format(list(without)) if without else sql.SQL("x::text")
        each = [
            sql.SQL("SELECT {}, string_agg(r, chr(10) ORDER BY r) FROM (SELECT {} FROM {} AS x) AS t (r)").format(
                name, row, sql.Identifier("public", name)
            )
            for (name,) in asked
        ]
        found = dict(self.execute(sql.SQL(" UNION ALL ").join(each)).fetchall()) if each else {}
        return {name: found.get(name) or "" for name in names}

    @contextmanager
    def changes_nothing(self, *, but: str = "") -> Iterator[None]:
        """Fails when what happens inside changes any row of any table, `but` one."""
        before = self.contents() | {but: ""}
        yield
        after = self.contents() | {but: ""}
        assert after == before, {
            name: (before.get(name), rows) for name, rows in after.items() if rows != before.get(name)
        }

    def until_blocked(self, pid: int, *, unless: Callable[[], bool] = lambda: False, within: float = PATIENCE) -> None:
        """Returns once the session stands and waits for a lock that another holds, or once it need not any more."""
        pause = threading.Event()
        for _ in range(int(within * 100)):
            blocked = self.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid)
            if blocked or unless():
                return
            pause.wait(0.01)
        raise AssertionError("The session does not wait for a lock.")


class Parallel:
    """Runs functions at once, each on a connection and in a thread of its own, and hands over what they return."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, *steps: Callable[[Connection], Any]) -> list[Any]:
        barrier = threading.Barrier(len(steps))
        outcomes: list[Any] = [None] * len(steps)

        def run(place: int, step: Callable[[Connection], Any]) -> None:
            try:
                with Connection.connect(self._url, autocommit=True) as conn:
                    barrier.wait(timeout=PATIENCE)
                    outcomes[place] = step(conn)
            except Exception as error:  # noqa: BLE001 -- raised again in the test's own thread
                outcomes[place] = error

        threads = [threading.Thread(target=run, args=(place, step)) for place, step in enumerate(steps)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENCE)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes
