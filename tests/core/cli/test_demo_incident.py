"""The incident of the demo: when the stand-in fails, and what an operator then sees."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core import registry
from jobdeck.core.cli.commands.run import demo
from jobdeck.core.cli.commands.run.demo import PUSHES, enqueue_demo_jobs
from jobdeck.core.cli.demo import jobs as demo_jobs
from jobdeck.core.cli.demo.jobs import incident, set_thresholds
from jobdeck.core.errors import VendorError
from jobdeck.core.model import Verdict
from jobdeck.core.queue import operator
from jobdeck.core.read.stats import error_groups
from jobdeck.core.read.type_settings import type_lines
from jobdeck.core.read.verdict.health import health
from jobdeck.core.registry import JobType
from jobdeck.core.settings import Settings
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE
from tests.support.working import drain

AT_ONCE = timedelta(0)
NEVER = timedelta(hours=1)


class Vendor:
    """Says when it begins and ends to fail."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.began.set()
        yield
        self.ended.set()


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that the account of the embedded server can reach."""
    folder = Path(tempfile.mkdtemp(prefix="jobdeck-demo-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def job_types() -> list[JobType]:
    known = registry.load(["jobdeck.core.cli.demo.jobs"])
    return [found for name in known.names if (found := known.get(name)) is not None]


def drained(url: str, conn: Connection, most: int) -> None:
    """That many of the next pushes are due, and end one way or another."""
    conn.execute(
        "UPDATE job_queue SET run_at = now() - interval '1 second' WHERE id IN"
        " (SELECT id FROM job_queue WHERE task_type = %s AND status = 'pending' ORDER BY run_at LIMIT %s)",
        [PUSHES, most],
    )
    drain(url, *(one for one in job_types() if one.task_type == PUSHES))
    conn.execute("SELECT job_stats_judge(clock_timestamp())")


def test_the_vendor_fails_after_a_while_and_works_again() -> None:
    vendor = Vendor()
    with incident(vendor.failing, after=AT_ONCE, lasting=AT_ONCE):
        assert vendor.began.wait(PATIENCE)
        assert vendor.ended.wait(PATIENCE)


def test_a_demo_that_ends_before_its_incident_has_none() -> None:
    vendor = Vendor()
    with incident(vendor.failing, after=NEVER):
        pass
    assert not vendor.began.is_set()


def test_a_demo_that_ends_in_its_incident_leaves_the_vendor_as_it_was() -> None:
    vendor = Vendor()
    with incident(vendor.failing, after=AT_ONCE, lasting=NEVER):
        assert vendor.began.wait(PATIENCE)
        assert not vendor.ended.is_set()
    assert vendor.ended.is_set()


def test_the_shop_refuses_webhooks_while_it_fails_and_takes_them_again() -> None:
    demo_jobs.shop.take(7)
    with (
        demo_jobs.shop.failing(),
        pytest.raises(VendorError, match="503 Service Unavailable to the webhook of order 7"),
    ):
        demo_jobs.shop.take(7)
    demo_jobs.shop.take(7)


@pytest.mark.slow
def test_in_the_incident_health_is_critical_and_one_group_has_the_failed_jobs(
    database_url: str, conn: Connection
) -> None:
    enqueue_demo_jobs(conn)
    set_thresholds(conn, PUSHES, actor="the demo")
    # None becomes due while the test runs.
    conn.execute("UPDATE job_queue SET run_at = run_at + interval '1 hour' WHERE task_type = %s", [PUSHES])
    drained(database_url, conn, 20)
    assert [one for one in health().run(conn).findings if one.subject == PUSHES] == []
    with demo_jobs.shop.failing():
        drained(database_url, conn, 40)
    found = health().run(conn)
    (finding,) = [one for one in found.findings if one.subject == PUSHES]
    assert (found.verdict, finding.verdict) == (Verdict.CRITICAL, Verdict.CRITICAL)
    (group,) = error_groups.groups().run(conn)
    assert "503 Service Unavailable" in group.sample
    assert (group.task_type, group.jobs) == (PUSHES, 40)


@pytest.mark.slow
@pytest.mark.parametrize("calm", [False, True])
def test_a_calm_demo_has_no_incident(calm: bool, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor = Vendor()
    monkeypatch.setattr(demo, "load_plugins", tuple)
    monkeypatch.setattr(demo_jobs, "shop", vendor)
    monkeypatch.setattr(demo, "incident", partial(incident, after=AT_ONCE))
    settings = Settings(state_dir=state)
    with demo.demo_environment(settings, calm=calm):
        # The thread of the incident has begun, or there is none.
        assert calm or vendor.began.wait(PATIENCE)
        assert any(thread.name == "demo incident" for thread in threading.enumerate()) is not calm
    assert vendor.began.is_set() is not calm


def pushes(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT id, run_at FROM job_queue WHERE task_type = %s ORDER BY id", [PUSHES]).fetchall()


@pytest.mark.slow
def test_a_second_start_soon_after_the_first_adds_no_webhooks(conn: Connection) -> None:
    enqueue_demo_jobs(conn)
    before = pushes(conn)
    enqueue_demo_jobs(conn)
    assert len(before) == len(demo.ORDERS)
    assert pushes(conn) == before


@pytest.mark.slow
def test_a_later_start_has_webhooks_that_meet_its_incident_instead_of_those_that_are_left(conn: Connection) -> None:
    enqueue_demo_jobs(conn)
    conn.execute("UPDATE job_queue SET run_at = run_at - interval '1 hour' WHERE task_type = %s", [PUSHES])
    left = pushes(conn)
    enqueue_demo_jobs(conn)
    new = pushes(conn)
    assert len(new) == len(demo.ORDERS)
    assert not {job for job, _ in left} & {job for job, _ in new}
    assert min(run_at for _, run_at in new) > max(run_at for _, run_at in left)


@pytest.mark.slow
def test_what_failed_in_an_earlier_demo_can_be_retried_beside_the_new_webhooks(conn: Connection) -> None:
    enqueue_demo_jobs(conn)
    conn.execute(
        "UPDATE job_queue SET status = 'failed', run_at = run_at - interval '1 hour' WHERE task_type = %s", [PUSHES]
    )
    failed = [job for job, _ in pushes(conn)]
    enqueue_demo_jobs(conn)
    assert all(result.ok for result in operator.retry(conn, failed, actor="kim"))


def test_thresholds_that_an_operator_has_set_stay(conn: Connection) -> None:
    operator.set_type(conn, PUSHES, changes={"warning_share": 0.9}, actor="kim", reason=None)
    set_thresholds(conn, PUSHES, actor="the demo")
    (line,) = type_lines().run(conn)
    assert (line.warning_share, line.critical_share) == (0.9, None)


def test_a_second_start_of_the_demo_writes_no_second_audit_row(conn: Connection) -> None:
    for _ in range(2):
        set_thresholds(conn, PUSHES, actor="the demo")
    assert conn.execute("SELECT count(*) FROM job_audit").fetchone() == (1,)
