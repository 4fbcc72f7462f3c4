"""An afternoon of the programme, for the pictures and for tests that want something of everything."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from jobdeck.core.model import Finding, Health, Job, Run, RunOutcome, Status, Verdict, Worker, WorkerRun
from jobdeck.core.read.report_types import AuditEntry, Clause, Counts, ErrorGroup, JobDetail
from jobdeck.core.read.stats.facets import Facet, Facets
from jobdeck.tui.backend.protocol import EmbeddedWorker
from tests.tui.fake import NOW, TYPES, FakeBackend, job_id, make_job, minutes


def sample() -> FakeBackend:
    """An afternoon of the programme: something of everything the dashboard can show."""
    worker = Worker("web-1:4242", "web-1", 4242, "headless", "0.1.0", 4, TYPES, NOW - minutes(600), NOW, 2, alive=True)
    trigger = WorkerRun(
        job_id(900),
        NOW - minutes(4),
        NOW - minutes(4),
        "cron_http",
        "GET",
        200,
        "ok",
        5,
        5,
        0,
        0,
        5,
        5,
        None,
        None,
        None,
    )
    backend = FakeBackend(_sample_jobs())
    backend.workers = (worker, replace(worker, id="here"))
    backend.embedded = EmbeddedWorker("running", 1)
    backend.health = Health(
        Verdict.WARNING,
        (Finding("series", Verdict.WARNING, "sms_digest_processor failed 2 cycles in a row", NOW - minutes(64)),),
        oldest_due=NOW - minutes(12),
        finished_per_minute=(9, 12, 17, 15, 8, 14, 21, 16, 13, 18, 11, 15, 19, 14, 12),
        failed_per_minute=(0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 2, 1),
        failed_last_hour=2,
        last_trigger=trigger,
    )
    backend.counts = Counts(pending=790, running=3, succeeded=0, failed=5, cancelled=2, removed=10_001)
    add_evidence(backend)
    announced = backend.jobs[5]
    backend.details[announced.id] = _sample_detail(announced)
    return backend


def add_evidence(backend: FakeBackend) -> None:
    """The trigger's history with a gap and a 200 that left jobs lying, errors in groups, what operators did."""
    found = backend.evidence
    found.runs = (
        *(worker_run(number, number * 5 - 1) for number in range(1, 5)),
        worker_run(5, 24, claimed=0, due_before=14),
        worker_run(6, 29, status="paused", claimed=0, due_before=14, message="MetaCTF is down"),
        worker_run(7, 76, http_status=500, status="error", claimed=0, error_message="connection to the pool timed out"),
        *(worker_run(number, 41 + number * 5) for number in range(8, 20)),
        worker_run(20, 150, source="manual", http_status=None, http_method=None, claimed=2),
    )
    limited, refused, odd = (backend.jobs[at] for at in (5, 6, 12))
    found.trends = (
        trend(odd, "the account is suspended", "messaging_config", count=2, waiting=1, last=4, first=64),
        trend(limited, "a1b2", "game_platform_rate_limited", count=47, jobs=12, failed=11, last=11, first=190),
        trend(refused, "c3d4", "messaging_payload", failed=1, last=40, first=40),
        trend(backend.jobs[4], "e5f6", "game_platform_down", count=9, jobs=4, waiting=4, last=1, first=4000),
    )
    found.groups = {
        found.trends[1].key: tuple(job.id for job in backend.jobs if job.status is Status.FAILED),
        found.trends[2].key: (refused.id,),
        found.trends[3].key: (backend.jobs[4].id,),
    }
    usual = facet(kind="worker", key="worker", value="web-1:4242", odd=False)
    found.facets = {found.trends[1].key: Facets(47, (facet(value="coach-17", these=45, sampled=47), usual))}
    alice, bob = "alice@10.0.0.7 (jobdeck)", "bob@10.0.0.9 (jobdeck)"
    actions = (
        (alice, "retry", 25, limited.id, None), (alice, "resume", 26, None, None),
        (alice, "pause", 31, None, "MetaCTF is down"), (bob, "cancel", 90, backend.jobs[7].id, "wrong coach"),
        (bob, "retry", 95, refused.id, None), (bob, "reveal", 96, refused.id, None),
    )  # fmt: skip
    before = {"task_type": "game_platform_sync", "status": "failed"}
    found.entries = tuple(
        AuditEntry(number, NOW - minutes(ago), actor, action, job_id, before if job_id else None,
                   {"status": "pending" if action == "retry" else "cancelled"} if job_id else {"task_type": None}, why)
        for number, (actor, action, ago, job_id, why) in enumerate(actions, start=1)
    )  # fmt: skip


def facet(**facts: Any) -> Facet:
    """A facet of a group of errors: all its runs have a value that a tenth of all runs have."""
    known: dict[str, Any] = {
        "kind": "payload", "key": "coachId", "value": "c3", "these": 500, "sampled": 500, "everywhere": 50,
        "compared": 500, "failed": 36, "odd": True, "hidden": False,
    }  # fmt: skip
    return Facet(**known | facts)


def trend(job: Job, fingerprint: str, kind: str, **facts: Any) -> ErrorGroup:
    """A group of errors like a job's; times are minutes before NOW."""
    count = facts.get("count", 1)
    last, first = facts.get("last", 5.0), facts.get("first", 5.0)
    hours = [0] * 24
    for number in range(min(count, 40)):
        hours[-1 - min(int(last + (first - last) * number / max(count, 1)) // 60, 23)] += 1
    return ErrorGroup(
        job.task_type, fingerprint, kind, job.last_error or "no reason given", count, facts.get("jobs", 1),
        NOW - minutes(first), NOW - minutes(last), tuple(hours), facts.get("failed", 0), facts.get("waiting", 0),
        bars=facts.get("bars", ()),
    )  # fmt: skip


def worker_run(number: int, ago: float, **facts: Any) -> WorkerRun:
    """A cron trigger that started `ago` minutes before NOW and succeeded."""
    given: dict[str, Any] = {
        "source": "cron_http", "http_method": "GET", "http_status": 200, "status": "ok", "claimed": 5, "due_before": 5,
        "worker_id": "cycle-1", "message": None, "error_message": None, "released": 0, "failed": 0,
    }  # fmt: skip
    given |= facts
    started = NOW - minutes(ago)
    return WorkerRun(
        id=job_id(900 + number), started_at=started, completed_at=started + timedelta(seconds=1.4),
        processed=given["claimed"], succeeded=given["claimed"] - given["failed"], **given,
    )  # fmt: skip


def _sample_jobs() -> list[Job]:
    def series(number: int, task_type: str, every: int, last: float, **facts: Any) -> Job:
        defaults: dict[str, Any] = {
            "task_type": task_type,
            "is_recurring": True,
            "recurrence_interval_minutes": every,
            "last_run_at": NOW - minutes(last),
            "last_outcome": RunOutcome.SUCCEEDED,
            "last_success_at": NOW - minutes(last),
            "next_run_at": NOW + minutes(every - last),
            "created_at": NOW - timedelta(days=40, minutes=number),
        }
        return make_job(number, **{**defaults, **facts})

    return [
        make_job(
            2, Status.RUNNING, task_type="game_platform_totals_sweep", attempts=1,
            payload={"batchSize": 100, "forceAll": True},
            progress={"done": 412, "total": 655, "message": "batch 5 of 7", "rate": 6.867,
                      "log": ["12:03:31.002 INFO    655 competitors are marked", "12:04:29.410 INFO    batch 5 of 7"]},
            locked_by="web-1:4242", run_token=81_022,
            lease_expires_at=NOW + timedelta(seconds=47), started_at=NOW - minutes(1),
        ),
        make_job(
            3, Status.RUNNING, task_type="competitor_announcement_dispatch", attempts=1, locked_by="here",
            run_token=81_023,
            payload={"campaignId": "0b7f2f7e-1f0c-4f5c-9a34-2f3e0f3f5a11"},
            lease_expires_at=NOW + timedelta(seconds=52),
            cancel_requested_at=NOW, cancel_requested_by="alice@10.0.0.7", started_at=NOW - minutes(2),
        ),
        make_job(5, task_type="message_read_receipts_backfill", payload={"batchSize": 500, "dryRun": True},
                 next_run_at=NOW - minutes(0.3)),
        make_job(17, task_type="game_platform_onboard_competitors", next_run_at=NOW - minutes(12),
                 payload={"coachId": "5d0c7f6a-8a55-4e4e-9a0e-000000000007", "competitorIds": ["a", "b", "c"]}),
        make_job(19, task_type="game_platform_onboard_competitors", next_run_at=NOW + minutes(3), attempts=2,
                 last_outcome=RunOutcome.RETRIED, last_run_at=NOW - minutes(1), payload={"batchSize": 50},
                 last_error="MetaCTF answered 503 Service Unavailable"),
        make_job(24, Status.FAILED, task_type="game_platform_profile_refresh", attempts=5,
                 last_outcome=RunOutcome.FAILED, last_run_at=NOW - minutes(11),
                 last_error="MetaCTF answered 429 Too Many Requests after 5 attempts: rate limit, retry in 3600 s"),
        make_job(41, Status.FAILED, task_type="competitor_announcement_dispatch", attempts=1,
                 last_outcome=RunOutcome.FAILED, last_run_at=NOW - minutes(40),
                 last_error="SendGrid refused the batch: the from address no-reply@example.org is not verified"),
        make_job(55, Status.CANCELLED, task_type="game_platform_totals_sweep", attempts=0),
        make_job(70, task_type="game_platform_totals_sweep", blocked_by=job_id(2)),
        make_job(80, Status.SUCCEEDED, task_type="game_platform_sync", removed=True, attempts=1,
                 last_outcome=RunOutcome.SUCCEEDED, last_run_at=NOW - minutes(79)),
        series(101, "game_platform_sync", 15, 6),
        series(102, "game_platform_totals_sweep", 15, 4, last_outcome=RunOutcome.PARTIAL),
        series(103, "sms_digest_processor", 60, 4, last_outcome=RunOutcome.FAILED, consecutive_failures=2,
               last_success_at=NOW - minutes(184), last_error="Twilio answered 401: the account is suspended"),
        series(104, "admin_alert_dispatch", 5, 2),
        series(105, "release_parent_email_verification", 60, 31),
        series(106, "game_platform_profile_refresh", 1440, 700),
    ]  # fmt: skip


def _sample_detail(job: Job) -> JobDetail:
    def run(attempt: int, ago: float, outcome: RunOutcome, **facts: Any) -> Run:
        started = NOW - minutes(ago)
        return Run(
            80_000 + attempt, job.id, job.task_type, {}, attempt, "web-1:4242", started, started,
            started + timedelta(seconds=2.4 * attempt), outcome, **facts,
        )  # fmt: skip

    limited = {"error_kind": "vendor", "error": "MetaCTF answered 429 Too Many Requests"}
    return JobDetail(
        replace(job, payload={"coachId": None, "dryRun": False}, checkpoint={"cursor": 125}),
        (
            run(5, 11, RunOutcome.FAILED, **limited, log="11:53:31.020 INFO    125 of 655 profiles refreshed\n",
                traceback='Traceback (most recent call last):\n'
                '  File "game_platform_profile_refresh.py", line 61, in run\n'
                "MetaCTFRateLimited: 429 Too Many Requests"),
            run(4, 15, RunOutcome.RETRIED, **limited),
            run(3, 19, RunOutcome.RETRIED, **limited),
            run(2, 21, RunOutcome.RETRIED, **limited),
            run(1, 22, RunOutcome.LOST, error_kind="lost", error="The worker stopped renewing its lease."),
        ),
        (
            Clause("status", holds=False, evidence="It is failed: no attempts are left. Retry it."),
            Clause("switch", holds=True, evidence="Processing is enabled."),
            Clause("type", holds=True, evidence="2 workers handle game_platform_profile_refresh."),
            Clause("due", holds=True, evidence="Due since 11:40:31Z."),
            Clause("dependency", holds=True, evidence="It waits for no other job."),
        ),
        (AuditEntry(1, NOW - minutes(24), "bob@10.0.0.9", "enqueue", job.id, None, None, None),),
    )  # fmt: skip
