"""Compares the figures that the product shows with those of plain SQL."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bench.outage import truth
from bench.outage.history import TYPE
from jobdeck.core import registry
from jobdeck.core.http.counters import Counters
from jobdeck.core.http.metrics import Metrics
from jobdeck.core.postgres.database import Database
from jobdeck.core.read import jobs, reports
from jobdeck.core.read.stats import error_groups, figures
from jobdeck.core.read.stats.trends import trends
from jobdeck.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.outage.world import World
    from bench.scripted.checks import Checks

WEEK = timedelta(days=7)
SHIFT = timedelta(hours=4)
EXACT_TO = 10_000
STATUSES = ("pending", "running", "succeeded", "failed", "cancelled")


def in_one_snapshot(conn: truth.Connection, checks: Checks) -> None:
    """While workers run: the product's reads and plain SQL in one snapshot of the database."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        groups = error_groups.groups(since=WEEK).run(conn)
        window = trends(SHIFT).run(conn)
        share = {one.task_type: (one.runs, one.failed) for one in figures.failure_shares().run(conn)}
        shift = reports.digest(SHIFT).run(conn)
        at = shift.at
        _groups(checks, "groups while workers run", map(_group, groups), conn, truth.floor5(at - WEEK))
        known = truth.outcomes(conn, window.since)
        shown = {
            (name, outcome.value): runs
            for name in window.types
            for outcome, runs in window.total(name).outcomes.items()
            if runs
        }
        checks.equal("runs by type and outcome while workers run", shown, known)
        exact = {name: truth.share(conn, name, at)[:2] for name in share}
        checks.equal("runs and failures of 15 minutes by type while workers run", share, exact)
        _finished(checks, "digest while workers run", _ended(shift), conn, truth.floor5(shift.since))
        _ahead(checks, conn)


def _ahead(checks: Checks, conn: truth.Connection) -> None:
    """How many due jobs are ahead of the last one in the order of the claim: all the others, whatever their type."""
    due = "FROM job_queue WHERE status = 'pending' AND run_at <= now()"
    (last,) = truth.rows(conn, f"SELECT id {due} AND task_type = %s ORDER BY run_at DESC, id DESC LIMIT 1", TYPE)[0]
    after = f"(run_at, id) < (SELECT run_at, id FROM job_queue WHERE id = '{last}')"
    exact = truth.one(conn, f"SELECT count(*) {due} AND {after}")
    (turn,) = [clause for clause in jobs.why(last).run(conn) if clause.name == "turn"]
    facts: Mapping[str, Any] = turn.facts
    _waiting(checks, "why: jobs ahead of the last one", facts["ahead"], exact, at_least=facts["at_least"])


def _ended(shift: Any) -> dict[str, int]:
    return {name: getattr(shift, name) for name in ("succeeded", "partial", "continued", "troubled", "failed")}


def of_commands(world: World, checks: Checks) -> None:
    """While nothing runs: what each command answers."""
    conn = world.conn
    _status(world, checks)
    _types(world, checks)
    found = world.command("errors", "--since", "7d").data["errors"]
    at = truth.one(conn, "SELECT now()")
    _groups(checks, "errors", map(_json_group, found), conn, truth.floor5(at - WEEK))
    for since in ("4h", "7d"):
        _trends(world, checks, since)
    _digest(world, checks)
    _metrics(world, checks)
    _why(world, checks)


def of_actions(world: World, checks: Checks, retries: int) -> None:
    """What the digest says operators did, compared with what this story did."""
    data = world.command("digest", "--since", "4h").data
    done: Counter[str] = Counter()
    for one in data["actions"]:
        done[one["action"]] += one["count"]
    wanted = {"pause": 1, "resume": 1, "canary": 2, "canary ended": 2, "bulk retry": retries}
    checks.equal("actions in the digest", {name: done[name] for name in wanted}, wanted)
    written = dict(truth.rows(world.conn, "SELECT action, count(*) FROM job_audit GROUP BY 1"))
    checks.equal("all actions in the digest", dict(done), written)


def _waiting(checks: Checks, what: str, shown: float, exact: int, *, at_least: bool) -> None:
    """Exact up to 10,000, and above it a number that says that there are more."""
    checks.equal(f"{what}: says that there are more", at_least, exact > EXACT_TO)
    checks.equal(what, shown, min(exact, EXACT_TO + 1))


def _status(world: World, checks: Checks) -> None:
    data = world.command("status").data
    exact: Counter[str] = Counter()
    for (_, status), count in truth.jobs(world.conn).items():
        exact[status] += count
    for status in STATUSES:
        _waiting(
            checks, f"status: {status}", data["counts"][status], exact[status],
            at_least=data["counts"]["at_least"][status],
        )  # fmt: skip
    pending = {name: count for (name, status), count in truth.jobs(world.conn).items() if status == "pending"}
    for line in data["waiting"]:
        _waiting(
            checks, f"status: pending {line['task_type']}", line["waiting"], pending.pop(line["task_type"], 0),
            at_least=line["at_least"],
        )  # fmt: skip
    checks.equal("status: types with pending jobs that it leaves out", pending, {})


def _types(world: World, checks: Checks) -> None:
    data = world.command("types", "list").data
    at = datetime.fromisoformat(data["at"])
    known = truth.jobs(world.conn)
    failed_in_all = sum(count for (_, status), count in known.items() if status == "failed")
    for one in data["types"]:
        name = one["task_type"]
        share = truth.share(world.conn, name, at)
        checks.equal(
            f"types: runs and failures of 15 minutes of {name}", (one["runs_15_minutes"], one["failed_15_minutes"]),
            (share.runs, share.failed),
        )  # fmt: skip
        checks.equal(f"types: running {name}", one["running"], known.get((name, "running"), 0))
        pending, failed = (known.get((name, status), 0) for status in ("pending", "failed"))
        _waiting(checks, f"types: pending {name}", one["pending"], pending, at_least=one["at_least"])
        if failed_in_all > EXACT_TO:
            shown = one["failed"]
            checks.holds(f"types: failed {name}", shown <= failed, shown, f"at most {failed:,}")
        else:
            checks.equal(f"types: failed {name}", one["failed"], failed)
            checks.equal(f"types: failed {name} says that there are more", one["failed_at_least"], False)
    paused = {one["task_type"] for one in data["types"] if one["paused_at"]}
    checks.equal("types: paused", paused, {name for (name,) in truth.rows(
        world.conn, "SELECT task_type FROM job_types WHERE paused_at IS NOT NULL")})  # fmt: skip


def _group(one: Any) -> tuple[tuple[str, str], tuple[int, ...]]:
    return one.key, (one.count, one.jobs, one.failed, one.waiting)


def _json_group(one: Mapping[str, Any]) -> tuple[tuple[str, str], tuple[int, ...]]:
    return (one["task_type"], one["fingerprint"]), (one["count"], one["jobs"], one["failed"], one["waiting"])


def _groups(checks: Checks, what: str, shown: Iterable[Any], conn: truth.Connection, since: datetime) -> None:
    checks.equal(f"{what}: runs, jobs, failed, awaiting a retry", dict(shown), truth.groups(conn, since))


def _trends(world: World, checks: Checks, since: str) -> None:
    data = world.command("trends", "--since", since).data
    shown = {
        (one["task_type"], outcome): runs for one in data["types"] for outcome, runs in one["outcomes"].items() if runs
    }
    exact = truth.outcomes(world.conn, datetime.fromisoformat(data["since"]))
    checks.equal(f"trends {since}: runs by type and outcome", shown, exact)
    by_outcome: dict[str, int] = defaultdict(int)
    for step in data["course"]:
        for outcome, runs in step["outcomes"].items():
            by_outcome[outcome] += runs
    total: dict[str, int] = defaultdict(int)
    for (_, outcome), runs in exact.items():
        total[outcome] += runs
    checks.equal(f"trends {since}: sum of the course", {k: v for k, v in by_outcome.items() if v}, dict(total))


def _finished(checks: Checks, what: str, shown: Mapping[str, int], conn: truth.Connection, since: datetime) -> None:
    """Runs that ended, and of those that failed, whether their job failed permanently."""
    by_outcome: Counter[str] = Counter()
    for (_, outcome), runs in truth.outcomes(conn, since).items():
        by_outcome[outcome] += runs
    exact = {name: by_outcome[name] for name in ("succeeded", "partial", "continued")}
    # No run of this story is lost.
    exact |= {"troubled": by_outcome["retried"] + by_outcome["lost"], "failed": by_outcome["failed"]}
    checks.equal(f"{what}: runs that ended", {name: shown[name] for name in exact}, exact)


def _digest(world: World, checks: Checks) -> None:
    data = world.command("digest", "--since", "4h").data
    since = datetime.fromisoformat(data["since"])
    _finished(checks, "digest", data, world.conn, truth.floor5(since))
    _groups(checks, "digest", map(_json_group, data["errors"]), world.conn, truth.floor5(since))
    text = world.text("digest", "--since", "4h", "--markdown").text
    told = sorted(int(one.replace(",", "")) for one in re.findall(r"(?<![\w:.-])\d[\d,]*(?![\w:.-])", text))
    for name in ("succeeded", "failed"):
        checks.holds(f"digest in Markdown: {name}", data[name] in told, data[name] in told, f"{data[name]:,} in it")


def _metrics(world: World, checks: Checks) -> None:
    with Database(world.url, application_name="incident", max_size=2) as database:
        metrics = Metrics(database, Settings.model_validate({}), Counters(), registry.load(["bench.outage.jobs"]))
        found = {family.name: family.samples for family in metrics.collect()}
        metrics.close()
    shown = {
        (one.labels["task_type"], one.labels["outcome"]): int(one.value)
        for one in found["jobdeck_runs"] if one.name.endswith("_total") and one.value
    }  # fmt: skip
    everything = truth.outcomes(world.conn, datetime.fromisoformat("2000-01-01T00:00:00+00:00"))
    checks.equal("/metrics: runs by type and outcome", shown, everything)


def _why(world: World, checks: Checks) -> None:
    """What holds up the last job of the paused type."""
    last = truth.rows(
        world.conn, "SELECT id FROM job_queue WHERE task_type = %s AND status = 'pending' AND run_at <= now() "
        "ORDER BY run_at DESC, id DESC LIMIT 1", TYPE,
    )  # fmt: skip
    for (job,) in last:
        clauses = {one["name"]: one for one in world.command("why", str(job)).data["clauses"]}
        broken = sorted(name for name, one in clauses.items() if not one["holds"] and name != "turn")
        checks.equal("why: what holds up the last job of the paused type", broken, ["type not paused"])
