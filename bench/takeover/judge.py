"""Compares what the database has in the end with what happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from bench.takeover.jobs import IMAGE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from bench.scripted.checks import Checks
    from bench.takeover.runner import Ran
    from bench.takeover.statements import Page
    from bench.takeover.world import World

EARLIER = "the earlier runner"
ENDS = ("succeeded", "partial", "failed", "cancelled")
PAST_RETENTION = """
SELECT id FROM job_worker_runs WHERE started_at < now() - interval '14 days'
UNION ALL SELECT id FROM job_queue
WHERE status IN ('succeeded', 'cancelled') AND completed_at < now() - interval '90 days'
"""


class Run(NamedTuple):
    """A line of the history, with times as they were before any simulated time moved them."""

    job: UUID
    token: int
    task_type: str
    worker: str
    outcome: str
    began: float
    ended: float


class Stage(NamedTuple):
    """Who has the queue between two switches: tokens above `first` up to `last` were taken in it."""

    name: str
    runner: str
    first: int
    last: int


def history(world: World) -> list[Run]:
    """All runs, oldest first. The latest times are those that nothing has moved."""
    return [
        Run(*one) for one in world.rows(
            "SELECT job_id, run_token, task_type, coalesce(worker_id, ''), outcome, "
            "extract(epoch FROM started_at)::float8, extract(epoch FROM finished_at)::float8 "
            "FROM job_runs ORDER BY run_token, late"
        )
    ]  # fmt: skip


def with_tokens(log: Iterable[Ran], runs: Iterable[Run], installed: float, undone: float) -> list[Ran]:
    """The log, where runs that began before the installation and ended after it have the token that they got there.

    From `undone` on, no job ran while something was installed.
    """
    given = {run.job: run.token for run in reversed([run for run in runs if run.worker == EARLIER])}
    return [
        one._replace(token=given.get(one.job)) if one.token is None and installed < one.ended < undone else one
        for one in log
    ]


def judge_runs(checks: Checks, world: World, runs: Sequence[Run], log: Sequence[Ran], stages: Iterable[Stage]) -> None:
    """The history against the log of the earlier runner."""
    theirs = {run.token: run for run in runs if run.worker == EARLIER and run.outcome != "lost"}
    logged = {one.token: one for one in log if one.token is not None}
    checks.equal("runs in the runner's log that the history does not have", len(logged.keys() - theirs.keys()), 0)
    checks.equal("runs of the runner in the history that its log does not have", len(theirs.keys() - logged.keys()), 0)
    differ = [one for token, one in logged.items() if token in theirs and not _same(one, theirs[token])]
    checks.equal("runs whose outcome is not what the runner reported", len(differ), 0)
    checks.equal("tokens that two runs of the log have", len([one for one in log if one.token]) - len(logged), 0)
    _judge_overlaps(checks, world, runs, log)
    for stage in stages:
        inside = [run for run in runs if stage.first < run.token <= stage.last]
        mine = Counter(run.worker == EARLIER for run in inside)
        checks.holds(f"{stage.name}: runs that began in it", inside, len(inside), "some")
        if stage.runner == "earlier":
            checks.equal(f"{stage.name}: jobs that a worker took", mine[False], 0)
        else:
            strays = [run for run in inside if (run.worker == EARLIER) != (run.task_type in IMAGE_TYPES)]
            checks.equal(f"{stage.name}: image jobs of a worker, and others of the runner", len(strays), 0)
            checks.holds(f"{stage.name}: jobs that workers took", mine[False], mine[False], "some")
            checks.holds(f"{stage.name}: image jobs that the runner took", mine[True], mine[True], "some")


def _same(one: Ran, run: Run) -> bool:
    if (one.job, one.task_type) != (run.job, run.task_type):
        return False
    # A cancellation that somebody asked for meanwhile prevails.
    return run.outcome in {
        "succeeded": ("succeeded", "cancelled"), "failed": ("failed", "cancelled"),
        "failed for now": ("retried", "failed", "cancelled"),
    }[one.reported]  # fmt: skip


def _judge_overlaps(checks: Checks, world: World, runs: Sequence[Run], log: Sequence[Ran]) -> None:
    """No two runs of a job at once, wherever. The history's times are moved back by all simulated time."""
    spans: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    for one in log:
        spans[one.job].append((one.claimed, one.ended))
    for run in runs:
        if run.worker != EARLIER:
            spans[run.job].append((run.began + world.shifted, run.ended + world.shifted))
    both = [
        job for job, found in spans.items()
        if any(later[0] < earlier[1] for earlier, later in zip(sorted(found), sorted(found)[1:], strict=False))
    ]  # fmt: skip
    checks.equal("jobs with two runs at once", len(both), 0)
    checks.holds("jobs that ran", len(spans) > 100, len(spans), "more than 100")


def judge_jobs(checks: Checks, world: World, runs: Sequence[Run], log: Sequence[Ran]) -> None:
    """Each job that anybody enqueued ended as often as it was to, and is in the queue as it is to be."""
    book = world.book
    ends: Counter[UUID] = Counter(run.job for run in runs if run.outcome in ENDS)
    ends.update(one.job for one in log if one.token is None and one.answer in {"succeeded", "failed", "cancelled"})
    ended = [(run.ended + world.shifted, run.job, run.outcome) for run in runs]
    ended += [(one.ended, one.job, str(one.answer)) for one in log if one.token is None]
    last = {job: outcome for _, job, outcome in sorted(ended, key=lambda one: one[0])}
    left = dict(world.rows("SELECT id, status FROM job_queue"))
    for job in {*left, *last} - book.types.keys():
        # Enqueued by a handler, or by a trigger.
        book.add(job, "another")
    found = {job: (ends[job], left.get(job, "gone")) for job in book.types if job not in book.series}
    wanted = {job: (book.ends[job], book.stays.get(job) or _rests(last.get(job, ""))) for job in found}
    wrong = {f"{book.types[job]} {job}": (one, wanted[job]) for job, one in found.items() if one != wanted[job]}
    checks.holds(
        "jobs that ended as they were to, once or again after a retry",
        not wrong,
        len(found) - len(wrong),
        f"{len(found):,}",
    )
    for name, (is_so, was_to) in list(wrong.items())[:20]:
        checks.equal(f"ends and state of {name}", is_so, was_to)
    _judge_series(checks, world)


def _rests(outcome: str) -> str:
    """The state of a job in the queue after its last run."""
    return outcome if outcome in {"failed", "cancelled"} else "gone"


def _judge_series(checks: Checks, world: World) -> None:
    """Each series waits for its next slot: whole intervals after its anchor, and not in the past."""
    grid = world.rows(
        "SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE "
        "extract(epoch FROM run_at - anchor_at)::numeric %% (recurrence_interval_minutes * 60) = 0), "
        "count(*) FILTER (WHERE run_at > now() - interval '5 seconds') FROM job_queue WHERE id = ANY (%s)",
        list(world.book.series),
    )[0]  # fmt: skip
    count = len(world.book.series)
    checks.equal("series: pending, on their grid, not late", grid, (count, count, count))


class Snapshot:
    """The tables and rows of the original before the installation."""

    def __init__(self, world: World) -> None:
        self.columns = _columns(world)
        self.rows = {table: _keys(world, table) for table in self.columns}
        self.old = {str(one) for (one,) in world.rows(PAST_RETENTION)}


def judge_rows(checks: Checks, world: World, before: Snapshot, page: Page) -> None:
    """No column of the original's is gone or has another type, and no row but those that the page lists."""
    now = _columns(world)
    lost = [
        f"{table}.{name}" for table, columns in before.columns.items() for name, kind in columns.items()
        if now.get(table, {}).get(name) != kind
    ]  # fmt: skip
    columns = sum(map(len, before.columns.values()))
    checks.holds("columns of the original", not lost, f"{columns - len(lost)} of {columns}", ", ".join(lost) or "all")
    for table, rows in before.rows.items():
        gone = rows - _keys(world, table)
        gone -= _explained(world, before, table, gone, page)
        checks.equal(f"rows of {table} that are gone, of {len(rows)}", len(gone), 0)


def _explained(world: World, before: Snapshot, table: str, gone: set[str], page: Page) -> set[str]:
    """Rows that are gone as the original or docs/competition/cutover.md says."""
    old = gone & before.old if page.lists("job_worker_runs") else set()
    if table == "job_queue":
        # A one-time job that succeeds leaves the queue. Whether it ran is judged apart.
        return old | (gone - before.old)
    if table == "game_platform_stats" and page.lists(table):
        return gone & _keys(world, "game_platform_stats_duplicates", "id")
    return old


def _columns(world: World) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for table, name, kind in world.rows(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a "
        "JOIN pg_class AS c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') "
        "AND a.attnum > 0 AND NOT a.attisdropped"
    ):
        found[table][name] = kind
    return dict(found)


def _keys(world: World, table: str, key: str | None = None) -> set[str]:
    """The primary keys of a table's rows, as text."""
    if key is None:
        key = world.one(
            "SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_index AS x "
            "JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey::int2[]) "
            "WHERE x.indisprimary AND x.indrelid = %s::regclass", f"public.{table}",
        )  # fmt: skip
    return {str(one) for (one,) in world.rows(f"SELECT concat_ws(' ', {key}) FROM public.{table}")}
