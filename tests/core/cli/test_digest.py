"""`digest`: what a shift was like, in words and as JSON."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.queue import operator, presence
from tests.core.cli.support import Jobdeck
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection


def shift(conn: Connection) -> None:
    """One success, one failure that was retried, a pause with a reason, a cycle that went wrong."""
    conn.add()
    conn.run_once()
    failed = conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="MetaCTF answered 503", error_kind="vendor")
    operator.retry(conn, [failed.id], actor=ACTOR)
    operator.pause(conn, reason="vendor is down", actor=ACTOR)
    run_id = presence.open_worker_run(conn, source="cron_http", worker_id="cycle-1")
    presence.close_worker_run(
        conn, run_id, status="error", claimed=0, succeeded=0, failed=0, released=0, http_status=500, error="boom"
    )


def test_it_tells_the_shift_in_words(jobdeck: Jobdeck, conn: Connection) -> None:
    shift(conn)
    told = jobdeck("digest").out
    for words in (
        "1 succeeded, 0 runs retried, 1 failed permanently", "1 cron_http (1 failed)", "paused 1, retried 1",
        "pause processing by mara@local", "vendor is down", "MetaCTF answered 503", "new", "PAUSED",
    ):  # fmt: skip
        assert words in told, words


@pytest.mark.slow
def test_partial_and_continued_runs_are_told_apart_from_those_that_succeeded(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    shift(conn)
    operator.resume(conn, actor=ACTOR)
    for outcome in ("partial", "partial", "continued"):
        conn.execute("DELETE FROM job_queue")
        conn.add()
        conn.run_once(outcome=outcome, checkpoint={})
    data = jobdeck("digest", "--json").data
    counted = [data[name] for name in ("succeeded", "partial", "continued", "troubled", "failed")]
    assert counted == [1, 2, 1, 0, 1]
    told = "1 succeeded, 2 partial, 1 to be continued, 0 runs retried, 1 failed permanently"
    assert told in jobdeck("digest").out


def test_as_json_it_has_the_same_and_says_what_is_new(jobdeck: Jobdeck, conn: Connection) -> None:
    shift(conn)
    data = jobdeck("digest", "--json").data
    assert (data["succeeded"], data["failed"]) == (1, 1)
    assert [error["new"] for error in data["errors"]] == [True]
    assert data["triggers"] == [{"source": "cron_http", "count": 1, "troubled": 1}]
    assert {(one["action"], one["count"]) for one in data["actions"]} == {("pause", 1), ("retry", 1)}
    assert data["at"].endswith("Z")


@pytest.mark.slow
def test_it_looks_back_as_far_as_it_is_told(jobdeck: Jobdeck, conn: Connection) -> None:
    shift(conn)
    conn.advance(timedelta(hours=9))
    assert jobdeck("digest", "--json").data["actions"] == []
    wider = jobdeck("digest", "--since", "12h", "--json").data
    assert len(wider["actions"]) == 2
    assert wider["failed"] == 1


def test_from_when_runs_are_counted_is_said_where_it_is_not_the_whole_time(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("UPDATE job_queue_settings SET stats_since = now() - interval '1 day'")
    assert "counted since" in jobdeck("digest", "--since", "3d").out
    assert "counted since" not in jobdeck("digest", "--since", "8h").out


def test_a_time_that_cannot_be_read_is_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("digest", "--since", "soon").refused(2, "duration of --since")


def test_hostile_names_come_out_harmless(
    jobdeck: Jobdeck, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    del capsys
    operator.pause(conn, reason="a\x1b]52;c;x\x07b", actor="eve\x1b[31m")
    assert "\x1b" not in jobdeck("digest").out


def test_actions_and_pauses_are_all_there_beside_more_audit_rows_than_a_list_holds(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    failed = conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error="the vendor answered 503", error_kind="vendor")
    announce(conn)
    operator.pause(conn, reason="vendor is down", actor=ACTOR)
    operator.ask_canary(conn, failed.id, actor=ACTOR)
    conn.execute("INSERT INTO job_audit (actor, action) SELECT %s, 'retry' FROM generate_series(1, 10500)", [ACTOR])
    data = jobdeck("digest", "--json").data
    done = {one["action"]: one["count"] for one in data["actions"]}
    assert done == {"pause": 1, "canary": 1, "retry": 10_500}
    assert [(one["action"], one["reason"]) for one in data["pauses"]] == [("pause", "vendor is down")]
    assert [one["job_id"] for one in data["canaries"]] == [str(failed.id)]
