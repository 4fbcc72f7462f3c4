"""Commands that act on jobs: an answer per id, `--yes`, `--dry-run`, filters, and refusals that change nothing."""

from __future__ import annotations

import io
from uuid import UUID, uuid4

import pytest

from jobdeck.core.model import FinishedRun, RunOutcome
from jobdeck.core.queue import leases
from tests.core.cli.support import Jobdeck, enqueued, everything
from tests.support.queue import Connection


def statuses(conn: Connection) -> dict[UUID, str]:
    return dict(conn.execute("SELECT id, status FROM job_queue").fetchall())


def test_cancel_and_retry_one_job_by_its_id(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    [answer] = jobdeck("cancel", str(job), "--reason", "not now", "--json").data["results"]
    assert (answer["id"], answer["ok"], answer["status"]) == (str(job), True, "cancelled")
    assert statuses(conn) == {job: "cancelled"}
    ran = jobdeck("retry", str(job))
    assert ran.code == 0
    assert str(job) in ran.out
    assert statuses(conn) == {job: "pending"}
    [row] = conn.execute("SELECT reason FROM job_audit WHERE action = 'cancel'").fetchall()
    assert row == ("not now",)


@pytest.mark.parametrize(("given", "kept"), [("   ", None), ("", None), ("\t not now \n", "not now")])
def test_a_reason_is_kept_without_white_space_around_it_and_a_blank_one_is_none(
    jobdeck: Jobdeck, conn: Connection, given: str, kept: str | None
) -> None:
    jobdeck("cancel", str(enqueued(conn, message="hello")), "--reason", given)
    jobdeck("pause", "--reason", given)
    assert conn.execute("SELECT reason FROM job_audit WHERE action = 'cancel'").fetchone() == (kept,)
    assert conn.execute("SELECT paused_reason FROM job_queue_settings").fetchone() == (kept,)


def test_each_id_gets_its_own_answer_and_one_refusal_is_exit_code_1(jobdeck: Jobdeck, conn: Connection) -> None:
    here, gone = enqueued(conn, message="hello"), uuid4()
    ran = jobdeck("cancel", str(here), str(gone), "--yes", "--json")
    assert ran.code == 1
    assert [(answer["id"], answer["ok"]) for answer in ran.data["results"]] == [(str(here), True), (str(gone), False)]
    assert statuses(conn) == {here: "cancelled"}


@pytest.mark.slow
def test_a_running_job_is_neither_retried_nor_deleted(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    leases.claim(conn, "a worker", ["cli_echo"], 1, 60)
    with conn.changes_nothing():
        for verb in ("retry", "delete"):
            ran = jobdeck(verb, str(job), "--yes", "--json")
            assert ran.code == 1
            [answer] = ran.data["results"]
            assert answer["code"] == f"{verb}-running"
            assert "A worker holds it" in answer["message"]
        assert jobdeck("edit", str(job), "--priority", "3").code == 1
    assert jobdeck("cancel", str(job)).code == 0
    assert conn.execute("SELECT cancel_requested_at IS NOT NULL FROM job_queue").fetchone() == (True,)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_more_than_one_job_needs_yes_and_says_so_without_changing_anything(
    jobdeck: Jobdeck, conn: Connection, verb: str
) -> None:
    ids = [str(enqueued(conn, message="hello")), str(enqueued(conn, message="hello"))]
    before = everything(conn)
    jobdeck(verb, *ids).refused(1, "2 jobs", "--yes", "--dry-run")
    jobdeck(verb, "--filter", "type:cli_echo").refused(1, "2 jobs", "--yes")
    assert jobdeck(verb, *ids, "--dry-run", "--json").data["dry_run"] is True
    assert everything(conn) == before
    assert jobdeck(verb, *ids, "--yes").code == 0
    assert everything(conn) != before


@pytest.mark.slow
def test_every_deletion_needs_yes_and_can_be_undone(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    with conn.changes_nothing():
        jobdeck("delete", str(job)).refused(1, "1 job", "--yes")
    assert jobdeck("delete", str(job), "--yes").code == 0
    assert statuses(conn) == {}
    assert jobdeck("restore", str(job), "--dry-run").code == 0
    assert statuses(conn) == {}
    assert jobdeck("restore", str(job)).code == 0
    assert statuses(conn) == {job: "pending"}


@pytest.mark.slow
def test_a_filter_acts_on_what_matches_and_nothing_else(jobdeck: Jobdeck, conn: Connection) -> None:
    one, two, other = enqueued(conn, message="red"), enqueued(conn, message="red"), enqueued(conn, message="blue")
    assert jobdeck("cancel", "--filter", "status:pending red", "--yes").code == 0
    assert statuses(conn) == {one: "cancelled", two: "cancelled", other: "pending"}
    assert jobdeck("cancel", "--filter", "status:failed", "--json").data["results"] == []


@pytest.mark.slow
def test_run_again_of_several_jobs_needs_yes_and_another_payload_is_for_one_job(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    ids = [str(enqueued(conn, message="hello")), str(enqueued(conn, message="hello"))]
    for job in leases.claim(conn, "a worker", ["cli_echo"], 2, 60):
        run = FinishedRun(job.id, job.run_token, RunOutcome.SUCCEEDED, 0, 0)
        leases.finish(conn, "a worker", [run], retry_base=1, retry_cap=1)
    with conn.changes_nothing():
        jobdeck("run-again", *ids).refused(1, "run again 2 jobs", "--yes", "--dry-run")
        jobdeck("run-again", *ids, "--yes", "--payload", "{}").refused(2, "--payload")
        jobdeck("run-again").refused(2, "ID")
        assert jobdeck("run-again", ids[0], "--payload", '{"times": 99}').code == 1
    assert jobdeck("run-again", *ids, "--yes").code == 0
    assert jobdeck("run-again", *ids, "--yes").code == 1
    assert len(statuses(conn)) == 2
    conn.execute("DELETE FROM job_queue")
    assert jobdeck("run-again", ids[0], "--payload", '{"message": "other"}').code == 0
    assert conn.execute("SELECT payload FROM job_queue").fetchall() == [({"message": "other"},)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["retry"], 2, ["--filter"]),
        (["retry", "nonsense"], 2, ["nonsense", "ID"]),
        (["retry", "ab"], 2, ["ab", "ID"]),
        (["retry", "00000000"], 1, ["00000000", "No job"]),
        (["retry", "--filter", "state:failed"], 2, ["state"]),
        (["edit", "nonsense", "--priority", "1"], 2, ["nonsense"]),
        (["edit", "11111111-1111-1111-1111-111111111111", "--priority", "1"], 1, ["not in the queue"]),
        (["restore"], 2, ["ids", "--bulk"]),
    ],
)
def test_what_names_no_job_is_refused(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: list[str]
) -> None:
    enqueued(conn, message="hello")
    with conn.changes_nothing():
        jobdeck(*arguments).refused(code, *words)


def test_ids_are_read_from_the_standard_input_as_the_dashboard_copies_them(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, other = [enqueued(conn, message="hello") for _ in range(3)], enqueued(conn, message="hello")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(str(job) for job in jobs)))
    assert jobdeck("cancel", "-", "--yes").code == 0
    assert statuses(conn) == dict.fromkeys(jobs, "cancelled") | {other: "pending"}


@pytest.mark.parametrize(
    ("given", "text", "words"),
    [
        (("-",), " \n", "holds no id"),
        (("-", "01234567"), "", "Do not combine it with other ids"),
        (("-",), "no-id", "no-id"),
        (("-",), f"{uuid4()}\n" * 10_001, "the maximum is 10000"),
    ],
    ids=["empty", "others", "no id", "too many"],
)
def test_a_standard_input_that_cannot_be_meant_is_refused_and_changes_nothing(
    given: tuple[str, ...],
    text: str,
    words: str,
    jobdeck: Jobdeck,
    conn: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueued(conn, message="hello")
    with conn.changes_nothing():
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        ran = jobdeck("cancel", *given, "--yes")
        assert ran.code == 2
        assert words in ran.err


def test_a_standard_input_that_is_no_text_is_refused(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "utf-8"))
    ran = jobdeck("delete", "-", "--yes")
    assert ran.code == 2
    assert "is not text" in ran.err


def test_ids_and_a_filter_together_are_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    jobdeck("retry", str(enqueued(conn, message="hello")), "--filter", "red").refused(2, "--filter")


def test_the_beginning_of_an_id_names_its_job_and_an_ambiguous_one_lists_the_jobs(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    first, second = enqueued(conn, message="hello"), enqueued(conn, message="hello")
    with conn.changes_nothing():
        jobdeck("cancel", first.hex[:4]).refused(2, str(first), str(second))
    assert jobdeck("cancel", str(first)[:35]).code == 0
    assert statuses(conn) == {first: "cancelled", second: "pending"}


@pytest.mark.slow
def test_a_version_that_has_passed_is_refused(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    with conn.changes_nothing():
        ran = jobdeck("cancel", str(job), "--if-version", "99", "--json")
        assert ran.code == 1
        assert "has changed and is now" in ran.data["results"][0]["message"]
        assert jobdeck("edit", str(job), "--priority", "1", "--if-version", "99").code == 1
    assert jobdeck("cancel", str(job), "--if-version", "1").code == 0


@pytest.mark.slow
def test_edit_changes_payload_and_schedule(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    arguments = ["--payload", '{"times": 3}', "--at", "2030-01-01T00:00Z", "--every", "30m", "--for", "1d"]
    assert jobdeck("edit", str(job), *arguments, "--priority", "7", "--max-attempts", "9", "--dry-run").code == 0
    assert conn.execute("SELECT payload->>'times' FROM job_queue").fetchone() == (None,)
    assert jobdeck("edit", str(job), *arguments, "--priority", "7", "--max-attempts", "9").code == 0
    edited = jobdeck("job", str(job), "--json").data
    assert edited["payload"] == {"times": 3}
    assert (edited["run_at"], edited["expires_at"]) == ("2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z")
    assert (edited["recurrence_interval_minutes"], edited["priority"], edited["max_attempts"]) == (30, 7, 9)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["--payload"]),
        (["--payload", "{"], 2, ["JSON"]),
        (["--payload", '{"times": 11}'], 1, ["times"]),
        (["--payload", '{"mesage": ""}'], 1, ["mesage"]),
        (["--at", "soon"], 2, ["soon"]),
        (["--every", "0m"], 2, ["0m"]),
        (["--for", ""], 2, ["--for"]),
        (["--for", "1d"], 2, ["--every"]),
        (["--priority", "1000"], 2, ["priority"]),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: list[str]
) -> None:
    job = enqueued(conn, message="hello")
    with conn.changes_nothing():
        jobdeck("edit", str(job), *arguments).refused(code, *words)


def test_an_edit_to_what_a_job_is_already_succeeds_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, message="hello")
    assert jobdeck("edit", str(job), "--priority", "3").code == 0
    with conn.changes_nothing():
        told = jobdeck("edit", str(job), "--priority", "3", "--json")
        assert (told.code, told.data["results"][0]["message"]) == (0, "Nothing to change.")
        assert jobdeck("edit", str(job), "--priority", "3", "--if-version", "99").code == 1


@pytest.mark.slow
def test_the_payload_of_a_type_without_handler_cannot_be_edited(jobdeck: Jobdeck, conn: Connection) -> None:
    job = enqueued(conn, "from_elsewhere", message="hello")
    jobdeck("edit", str(job), "--payload", "{}").refused(1, "from_elsewhere")
    assert jobdeck("edit", str(job), "--priority", "2").code == 0


@pytest.mark.slow
def test_run_again_enqueues_a_copy_with_the_key_and_the_attempts_of_the_job_and_retry_names_it(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    jobdeck("enqueue", "game_platform_sync")
    kept = "SELECT concurrency_key, max_attempts FROM job_queue"
    [usual] = conn.execute(kept).fetchall()
    assert usual[0] is not None
    [job] = leases.claim(conn, "a worker", ["game_platform_sync"], 1, 60)
    conn.execute(
        """
        SELECT job_queue_finish('a worker', ARRAY[%s::uuid], ARRAY[%s::bigint], ARRAY['succeeded'], ARRAY[now()],
            ARRAY[now()], ARRAY['{}'::jsonb], 1, 1)
        """,
        (job.id, job.run_token),
    )
    with conn.changes_nothing():
        refused = jobdeck("retry", str(job.id), "--json")
        assert refused.code == 1
        assert f"jobdeck run-again {job.id}" in refused.data["results"][0]["message"]
        [told] = jobdeck("run-again", str(job.id), "--dry-run", "--json").data["results"]
        assert (told["ok"], told["code"], told["message"]) == (True, "would-run-again", "A copy would be enqueued.")
    assert jobdeck("run-again", str(job.id), "--reason", "once more").code == 0
    assert conn.execute(kept).fetchall() == [usual]
    assert conn.execute("SELECT after, reason FROM job_audit WHERE action = 'run again'").fetchall() == [
        ({"copy_of": str(job.id)}, "once more")
    ]
