"""Incidents of one cause each: from the first sign to the cure that the sign names, each figure compared with SQL."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bench.outage import truth
from bench.outage.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.scripted.checks import Checks

MAIL, CUSTOMERS, EACH = "order_mail", 10, 50
"""The type with the failing runs, how many customers there are, and how many jobs each has."""
HUNG, WAITING = "stock_sync", 30
"""The type of the hung job, and how many jobs wait behind it."""
NEWER, FIELD, DEPLOYED = "report_row", "locale", 300
"""The type, the field that no worker knows, and how many jobs have it."""
LIMITED, PLACES, IMAGES = "image_resize", 3, 200
"""The type with most of the due jobs, how many of them run at once, and how many are due."""
SERIES, EVERY, LATE = 12, 10, 55
"""How many series run once for all missed slots; their interval, and for how long they are due, in minutes."""
HOUR = timedelta(hours=1)
CUSTOMER = "c3"
"""As in `bench.outage.jobs`, which needs the environment of a world."""
LONG = timedelta(minutes=20)
LEFT = "SELECT count(*) FROM job_queue WHERE status IN ('pending', 'running')"
FIRST_FAILS = "SELECT min(finished_at) + interval '1 hour' FROM job_runs WHERE error_kind = 'newer_payload'"
"""A job whose payload is of a newer program fails an hour after a worker first put it off."""
RUNS = "SELECT count(*) FROM job_runs WHERE outcome = 'succeeded' AND task_type = ANY(%s)"
OF_CUSTOMER = "SELECT count(*) FROM job_runs WHERE run_token > %s AND payload ->> 'customer' = %s"
ALONE = 20
"""How many jobs run once while another one's worker dies."""
LOST = "SELECT count(*) FROM job_runs WHERE outcome = 'lost'"
ONE_RUN = "SELECT count(*) FROM (SELECT FROM job_runs GROUP BY job_id HAVING count(*) = 1) AS once"
RUNS_OF_LOST = """
SELECT job_id, outcome, output FROM job_runs WHERE job_id IN (SELECT job_id FROM job_runs WHERE outcome = 'lost')
ORDER BY run_token
"""
DUE = "SELECT count(*) FROM job_queue WHERE status = 'running' OR (status = 'pending' AND run_at <= now())"
AT_ONCE = """
SELECT max(at_once) FROM (
    SELECT sum(step) OVER (ORDER BY moment, step ROWS UNBOUNDED PRECEDING) AS at_once FROM (
        SELECT started_at AS moment, 1 AS step FROM job_runs WHERE task_type = %s
        UNION ALL SELECT finished_at, -1 FROM job_runs WHERE task_type = %s
    ) AS ends
) AS sums
"""
SECONDS = 60.0


def tell(checks: Checks) -> None:
    """All scenes, each in a world of its own."""
    scenes: tuple[tuple[str, Callable[[World, Checks], None]], ...] = (
        ("The runs of one customer fail, a tenth of a type", one_customer),
        ("Nothing runs: a hung job holds the only place of its type", held_place),
        ("A deploy whose new field no worker knows", unknown_field),
        ("A message is sent twice: prove it or exclude it", sent_twice),
        ("The scheduler has not called for an hour", silent_scheduler),
    )
    for title, scene in scenes:
        checks.chapter(title)
        with World() as world:
            scene(world, checks)


def one_customer(world: World, checks: Checks) -> None:
    """The sign of the first judgement names the key, the group names the value, and a hold keeps its jobs back."""
    conn = world.conn
    world.sick.touch()
    world.start_workers(1)
    dashboard = world.start_dashboard()
    checks.becomes("the dashboard", lambda: dashboard.line_with("now"), SECONDS)
    _mails(conn, EACH)
    world.wait(lambda: truth.one(conn, LEFT) == 0, "the runs")
    conn.execute("SELECT job_stats_judge(clock_timestamp())")
    failed = truth.one(conn, "SELECT count(*) FROM job_queue WHERE status = 'failed'")
    percent = round(100 * failed / EACH)

    found = _findings(world)
    checks.equal("the signs, the worst first", [(one["signal"], one["subject"]) for one in found],
                 [("failures", MAIL)])  # fmt: skip
    evidence = found[0]["evidence"] if found else ""
    _begins(checks, "the first sign", evidence, f"{MAIL}: one customer fails {percent} %;")
    checks.holds("the jobs that are lost are in it", f"{failed} jobs" in evidence, evidence, f"{failed} jobs")
    checks.holds("the customer is not", CUSTOMER not in evidence, evidence, f"no {CUSTOMER}")
    checks.becomes("the customer on the dashboard of who may see payloads",
                   lambda: dashboard.line_with(f"customer {CUSTOMER} fails {percent} %"), SECONDS)  # fmt: skip
    mark = truth.one(conn, "SELECT min(fingerprint) FROM job_queue WHERE status = 'failed'")
    (group,) = world.command("errors", mark).data["errors"] or [{}]
    odd = [(one["key"], one.get("value"), one["share"], round(one["usual_share"], 2)) for one in group["facets"]["odd"]]
    checks.equal("what the group has more often than all runs", odd, [("customer", CUSTOMER, 1.0, 1 / CUSTOMERS)])

    held = world.command("hold", MAIL, f"customer={CUSTOMER}", "--reason", "the server refuses its mail")
    checks.equal("exit code of hold", held.code, 0)
    newest = truth.one(conn, "SELECT max(run_token) FROM job_runs")
    _mails(conn, 1)
    others = "SELECT count(*) FROM job_runs WHERE run_token > %s AND payload ->> 'customer' <> %s"
    world.wait(lambda: truth.one(conn, others, newest, CUSTOMER) == CUSTOMERS - 1, "the runs of the others")
    kept = truth.one(conn, "SELECT id FROM job_queue WHERE status = 'pending'")
    why = world.text("why", str(kept)).text
    checks.holds("why names the hold", "Hold 1 by customer keeps" in why, why, "a line with Hold 1")
    checks.becomes("the hold on the dashboard", lambda: dashboard.line_with("held"), SECONDS)
    world.sick.unlink()
    checks.equal("runs of the customer", truth.one(conn, OF_CUSTOMER, newest, CUSTOMER), 0)
    checks.equal("exit code of release", world.command("release", "1").code, 0)
    retried = world.command("retry", "--filter", f"type:{MAIL} fingerprint:{mark}", "--yes", "--reason", "it answers")
    checks.equal("exit code of the retry", retried.code, 0)
    _is_well(world, checks, runs=(EACH + 1) * CUSTOMERS, verdicts=[MAIL])


def _mails(conn: truth.Connection, each: int) -> None:
    """Enqueues this number of mails to each customer. A mail is tried once."""
    conn.execute(
        "INSERT INTO job_queue (task_type, max_attempts, payload) "
        "SELECT %s, 1, jsonb_build_object('number', n, 'customer', 'c' || c) "
        "FROM generate_series(1, %s) AS n, generate_series(0, %s) AS c ORDER BY n, c",
        [MAIL, each, CUSTOMERS - 1],
    )


def held_place(world: World, checks: Checks) -> None:
    """The first sign names the type, the cause and the job that holds the place; its command ends the wait."""
    conn = world.conn
    conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(1, 20)", [HUNG])
    world.start_workers(1)
    world.wait(lambda: truth.one(conn, LEFT) == 0, "the runs of usual length")
    dashboard = world.start_dashboard()
    checks.becomes("the dashboard", lambda: dashboard.line_with("now"), SECONDS)
    world.hung.touch()
    checks.equal("exit code of the limit", world.command("types", "set", HUNG, "--max-running", "1").code, 0)
    conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(0, %s)", [HUNG, WAITING])
    running = "SELECT id, started_at FROM job_queue WHERE status = 'running'"
    world.wait(lambda: truth.rows(conn, running), "the hung job")
    conn.execute("UPDATE job_queue SET started_at = started_at - %s WHERE status = 'running'", [LONG])
    conn.execute("UPDATE job_queue SET run_at = run_at - %s, created_at = created_at - %s WHERE status = 'pending'",
                 [LONG, LONG])  # fmt: skip
    (holder, since) = truth.rows(conn, running)[0]
    short = holder.hex[-8:]

    found = _findings(world)
    checks.equal("the signs, the worst first", [(one["signal"], one["subject"]) for one in found],
                 [("cannot run", HUNG), ("long runs", "")])  # fmt: skip
    evidence = found[0]["evidence"] if found else ""
    _begins(checks, "the first sign", evidence,
            f"{HUNG}: {WAITING} jobs wait, and the only place is held by job {short} for 20m "
            f"(since {_clock(since)}")  # fmt: skip
    checks.becomes("the same on the dashboard", lambda: dashboard.line_with(HUNG), SECONDS)
    waiting = truth.one(conn, "SELECT id FROM job_queue WHERE status = 'pending' ORDER BY id LIMIT 1")
    why = world.text("why", str(waiting)).text
    checks.holds("why names the holder", short in why, why, f"a line with {short}")
    _cure(world, checks, evidence)
    world.hung.unlink()
    _is_well(world, checks, runs=20 + WAITING)


def unknown_field(world: World, checks: Checks) -> None:
    """The first sign names the field, the number of jobs and when they fail; its command makes them run."""
    conn = world.conn
    world.start_workers(1)
    dashboard = world.start_dashboard()
    checks.becomes("the dashboard", lambda: dashboard.line_with("now"), SECONDS)
    conn.execute(
        "INSERT INTO job_queue (task_type, payload) "
        "SELECT %s, jsonb_build_object('number', n, %s::text, 'de') FROM generate_series(1, %s) AS n",
        [NEWER, FIELD, DEPLOYED],
    )
    put_off = "SELECT count(*) FROM job_queue WHERE status = 'pending' AND last_error LIKE '%%is not a field%%'"
    world.wait(lambda: truth.one(conn, put_off) == DEPLOYED, "a look at each job by the worker")

    found = _findings(world)
    checks.equal("the signs, the worst first", [(one["signal"], one["subject"], one["verdict"]) for one in found],
                 [("cannot run", NEWER, "critical")])  # fmt: skip
    deadline = truth.one(conn, FIRST_FAILS)
    evidence = found[0]["evidence"] if found else ""
    _begins(checks, "the first sign", evidence,
            f"{NEWER}: {DEPLOYED} jobs have `{FIELD}`, which the one worker does not know; "
            f"they fail from {_clock(deadline)} on.")  # fmt: skip
    checks.becomes("the same on the dashboard", lambda: dashboard.line_with(NEWER), SECONDS)
    _cure(world, checks, evidence)
    due = world.command("retry", "--filter", f"type:{NEWER} status:pending", "--yes", "--reason", "edited")
    ready = [one for one in due.data.get("results", []) if one["code"] == "due-now"]
    checks.equal("jobs that run now, not at the next look", len(ready), DEPLOYED)
    _is_well(world, checks, runs=DEPLOYED)


def sent_twice(world: World, checks: Checks) -> None:
    """A worker dies within a run: which job may have sent twice, what each run sent, and that no other job did."""
    conn = world.conn
    world.start_workers(1)
    dashboard = world.start_dashboard()
    checks.becomes("the dashboard", lambda: dashboard.line_with("now"), SECONDS)
    conn.execute("INSERT INTO job_queue (task_type, payload) SELECT %s, jsonb_build_object('number', n) "
                 "FROM generate_series(1, %s) AS n", [HUNG, ALONE])  # fmt: skip
    world.wait(lambda: truth.one(conn, LEFT) == 0, "the runs that no worker leaves")
    world.hung.touch()
    conn.execute("INSERT INTO job_queue (task_type, payload) VALUES (%s, '{\"number\": 0}')", [HUNG])
    begun = "SELECT count(*) FROM job_queue WHERE status = 'running' AND started_at IS NOT NULL"
    world.wait(lambda: truth.one(conn, begun) == 1, "the run that will be lost")
    world.workers.pop().kill()
    world.hung.unlink()
    conn.execute("UPDATE job_queue SET lease_expires_at = now() WHERE status = 'running'")
    world.start_workers(1)
    world.wait(lambda: truth.one(conn, LOST) == 1, "the loss")
    conn.execute("UPDATE job_queue SET run_at = now() WHERE status = 'pending'")
    world.wait(lambda: truth.one(conn, LEFT) == 0, "the second run")

    said = ["1 job may have acted twice: a run was lost or late after it began, and another one began.",
            f"{ALONE} jobs have one run that began."]  # fmt: skip
    found = world.command("runs", "--twice").data
    checks.equal("what the command says", found["sentences"], said)
    checks.equal("jobs with one run", found["once"], truth.one(conn, ONE_RUN))
    shown = [(one["job_id"], one["outcome"], one["output"]) for one in found["lost"]["runs"]]
    exact = [(str(job), outcome, output) for job, outcome, output in truth.rows(conn, RUNS_OF_LOST)]
    checks.equal("the runs of the job, and what each sent", shown, exact)
    checks.equal("what the second run sent", exact[-1][1:], ("succeeded", {"sid": "S0"}))
    digest = world.text("digest", "--since", "1h", "--markdown").text
    checks.holds("the hand-over says the same", said[0] in digest, said[0] in digest, said[0])
    dashboard.press("x")
    checks.becomes("the same on the dashboard", lambda: dashboard.line_with(said[0]), SECONDS)
    dashboard.press("q")
    _is_well(world, checks, runs=ALONE + 1)


def silent_scheduler(world: World, checks: Checks) -> None:
    """The first sign names the scheduler. The preview says what will start, and just this starts."""
    conn = world.conn
    _call(world, checks)
    conn.execute("UPDATE job_worker_runs SET started_at = started_at - %(by)s, completed_at = completed_at - %(by)s, "
                 "noted_at = noted_at - %(by)s", {"by": HOUR})  # fmt: skip
    world.command("types", "set", LIMITED, "--max-running", str(PLACES))
    late = timedelta(minutes=LATE)
    every = ["--every", f"{EVERY}m", "--at", f"{datetime.now(UTC) - late:%Y-%m-%dT%H:%M:%SZ}"]
    for number in range(SERIES):
        world.command("enqueue", NEWER, "--payload", f'{{"number": {number}}}', *every)
    world.command("enqueue", HUNG, *every, "--catch-up", "all")
    conn.execute("INSERT INTO job_queue (task_type, run_at) SELECT %s, now() - %s FROM generate_series(1, %s)",
                 [LIMITED, late, IMAGES])  # fmt: skip
    world.busy.touch()

    found = _findings(world)
    evidence = found[0]["evidence"] if found else ""
    checks.equal("the first sign", (found[0]["signal"], found[0]["verdict"]) if found else None,
                 ("trigger", "critical"))  # fmt: skip
    _begins(checks, "its words", evidence, "The scheduler has stopped: last good call 60m ago, expected every 5m")

    checks.equal("exit code of pause", world.command("pause", "--reason", "until the scheduler calls").code, 0)
    world.start_workers(2)
    alive = "SELECT count(*) FROM job_workers"
    world.wait(lambda: truth.one(conn, alive) == 2, "the workers")
    starts = world.command("resume", "--dry-run").data.get("starts", {})
    due = truth.one(conn, "SELECT count(*) FROM job_queue WHERE status = 'pending' AND run_at <= now()")
    missed = LATE // EVERY
    checks.equal("jobs that will start", starts.get("jobs"), due)
    checks.equal("catch-up runs", starts.get("missed"), [[HUNG, missed]])
    checks.equal("at once", starts.get("at_once"), PLACES + SERIES + 1)
    checks.equal("jobs that ran in the pause", truth.one(conn, RUNS, [LIMITED, NEWER, HUNG]), 0)
    checks.equal("exit code of resume", world.command("resume").code, 0)
    world.wait(lambda: not truth.one(conn, DUE), "the end of all due jobs")
    checks.equal("runs of each kind", [truth.one(conn, RUNS, [name]) for name in (LIMITED, NEWER, HUNG)],
                 [IMAGES, SERIES, missed + 1])  # fmt: skip
    most = truth.one(conn, AT_ONCE, LIMITED, LIMITED)
    checks.holds("most runs of the limited type at once", most <= PLACES, most, f"at most {PLACES}")
    _call(world, checks)
    checks.equal("signs that are left", _findings(world), [])
    checks.equal("exit codes of the workers", world.stop_workers(), [0, 0])


def _call(world: World, checks: Checks) -> None:
    checks.equal("exit code of a call of the scheduler", world.command("run-worker", "--scheduled").code, 0)


def _findings(world: World) -> list[dict[str, Any]]:
    """What health finds that is not well."""
    return [one for one in world.command("health").data["findings"] if one["verdict"] in {"critical", "warning"}]


def _clock(moment: datetime) -> str:
    """A time as findings say it: with the day where that is not today."""
    today = moment.astimezone(UTC).date() == datetime.now(UTC).date()
    return f"{moment.astimezone(UTC):{'%H:%MZ' if today else '%Y-%m-%d %H:%MZ'}}"


def _begins(checks: Checks, what: str, found: str, expected: str) -> None:
    checks.holds(what, found.startswith(expected), found, expected)


def _cure(world: World, checks: Checks, evidence: str) -> None:
    """Runs the command that a sign names."""
    named = re.findall(r"`jobdeck ([^`]+)`", evidence)
    checks.equal("commands that the sign names", len(named), 1)
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", named[0])] if named else ["health"]
    asked = ["--yes", "--reason", "as the sign says"]
    checks.equal(f"exit code of {words[0]}", world.command(*words, *asked).code, 0)


def _is_well(world: World, checks: Checks, *, runs: int, verdicts: Sequence[str] = ()) -> None:
    """All jobs end, each ran successfully once, and no sign is left, except verdicts on types that recover."""
    world.wait(lambda: truth.one(world.conn, LEFT) == 0, "the end of all jobs")
    done = "SELECT count(*), count(DISTINCT job_id) FROM job_runs WHERE outcome = 'succeeded'"
    checks.equal("runs that succeeded and their jobs", truth.rows(world.conn, done)[0], (runs, runs))
    left = [
        one for one in _findings(world) if (one["signal"], one["subject"]) not in {("failures", of) for of in verdicts}
    ]
    checks.equal("signs that are left", left, [])
    checks.equal("exit codes of the workers", world.stop_workers(), [0])
