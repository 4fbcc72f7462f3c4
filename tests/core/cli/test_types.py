"""`jobdeck types`: the types in the queue, and their settings."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

from jobdeck.core.queue import leases
from tests.core.cli.support import Jobdeck, enqueued
from tests.core.queue.test_code_values import start
from tests.support.health import announce
from tests.support.queue import Connection
from tests.support.waiting import rounds

WITHOUT_WORKER = "No live worker handles foreign_type. Its jobs wait until one does.\n"


@pytest.mark.slow
def test_settings_are_set_listed_and_reset(jobdeck: Jobdeck, conn: Connection) -> None:
    given = ("--warn", "20%", "--critical", "60.5 %", "--lost", "5", "--mute-for", "2h", "--reason", "known")
    found = jobdeck("types", "set", "cli_echo", *given, "--json").data
    assert (found["warning_share"], found["critical_share"], found["muted_reason"]) == (0.2, 0.605, "known")
    jobdeck("pause", "--type", "cli_echo", "--until", "2099-01-01")
    head, row = jobdeck("types", "list").out.splitlines()
    assert head.split() == [
        "TYPE", "PENDING", "RUNNING", "FAILED", "WAIT", "OK/MIN", "FAILED/MIN", "FAILING", "USUALLY", "WORKERS",
        "PAUSED", "MUTED", "WARNING", "CRITICAL", "LOST", "LIMITS", "CODE",
    ]  # fmt: skip
    assert "until 2099-01-01" in row
    assert row.split()[-6:] == ["%", "60.5", "%", "5", "-", "-"]
    reset = jobdeck("types", "set", "cli_echo", "--warn", "default", "--unmute", "--json").data
    assert (reset["warning_share"], reset["critical_share"], reset["muted_until"]) == (None, 0.605, None)
    assert reset["lost_jobs"] == 5
    assert jobdeck("types", "set", "cli_echo", "--lost", "default", "--json").data["lost_jobs"] is None
    assert [one["action"] for one in jobdeck("audit", "--json").data["audit"]].count("set type") == 3
    assert conn.execute("SELECT count(*) FROM job_types").fetchone() == (1,)


@pytest.mark.slow
def test_a_type_without_a_worker_is_set_and_pointed_out(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, "foreign_type")
    ran = jobdeck("types", "set", "foreign_type", "--warn", "30%")
    assert ran.code == 0
    assert ran.err == WITHOUT_WORKER
    assert jobdeck("pause", "--type", "foreign_type").err == WITHOUT_WORKER
    announce(conn, types=["foreign_type"])
    assert jobdeck("types", "set", "foreign_type", "--warn", "40%").err == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("types", "set", "foreign_type", "--max-running", "2"),
        ("pause", "--type", "foreign_type"),
        ("hold", "foreign_type", "id=5"),
    ],
)
def test_what_a_command_did_is_said_before_its_notes(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    enqueued(conn, "foreign_type")
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    said, note, _ = jobdeck(*arguments).out.partition(WITHOUT_WORKER)
    assert said
    assert note


@pytest.mark.slow
def test_a_type_of_another_runner_is_set_aside_and_taken_over(jobdeck: Jobdeck, conn: Connection) -> None:
    enqueued(conn, "foreign_type")
    ran = jobdeck("types", "set", "foreign_type", "--set-aside", "--reason", "the old runner makes images")
    assert (ran.code, ran.err) == (0, "")
    assert "set aside" in ran.out
    status = jobdeck("status")
    assert "the old runner makes images" in status.out
    assert jobdeck("status", "--json").data["processing"]["paused_types"] == []
    assert "set aside, by " in jobdeck("types", "list").out
    jobdeck("pause", "--type", "foreign_type").refused(1, "set aside for another runner")
    jobdeck("resume", "--type", "foreign_type").refused(1, "jobdeck types set foreign_type --take-over")
    assert jobdeck("types", "set", "foreign_type", "--take-over", "--json").data["set_aside"] is False


def test_a_type_that_has_no_job_at_the_moment_is_set_aside_with_a_note(jobdeck: Jobdeck, conn: Connection) -> None:
    ran = jobdeck("types", "set", "foreign_type", "--set-aside", "--reason", "the old runner makes images")
    assert (ran.code, ran.err) == (
        0, "The queue has no job of foreign_type at the moment. Check that its name is right.\n",
    )  # fmt: skip
    enqueued(conn, "foreign_type")
    assert [one["set_aside"] for one in jobdeck("types", "list", "--json").data["types"]] == [True]


def test_a_dry_run_shows_the_settings_and_changes_nothing(jobdeck: Jobdeck, conn: Connection) -> None:
    with conn.changes_nothing():
        ran = jobdeck("types", "set", "cli_echo", "--critical", "70%", "--dry-run")
        assert "would be" in ran.out
        assert "70 %" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["cli_echo"], 2, ["Nothing to change", "--warn"]),
        (["cli_echo", "--warn", "0.2"], 2, ["--warn", "20%", "0.2"]),
        (["cli_echo", "--warn", "101%"], 1, ["101 %", "Nothing was changed"]),
        (["cli_echo", "--critical", "-3%"], 1, ["-3 %", "Nothing was changed"]),
        (["cli_echo", "--lost", "0"], 1, ["from 1 to 1,000,000,000, and 0 is not", "Nothing was changed"]),
        (["cli_echo", "--lost", "few"], 2, ["--lost needs a whole number such as 5, or default; 'few' is neither"]),
        (["cli_echo", "--warn", "50%", "--critical", "20%"], 1, ["50 %", "20 %"]),
        (["cli_echo", "--mute-until", "2020-01-01"], 1, ["past"]),
        (["cli_echo", "--mute-for", "0m"], 2, ["--mute-for"]),
        (["cli_echo", "--mute-for", "1h", "--unmute"], 2, ["--mute-for", "--unmute"]),
        (["cli_echo", "--set-aside"], 1, ["Say in the reason which runner"]),
        (["cli_echo", "--take-over"], 1, ["cli_echo is not set aside"]),
        (["cli_echo", "--take-over", "--set-aside"], 2, ["--set-aside or --take-over"]),
        (["cli_ecco", "--warn", "20%"], 1, ["cli_ecco", "cli_echo"]),
    ],
)
def test_bad_input_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: list[str]
) -> None:
    with conn.changes_nothing():
        jobdeck("types", "set", *arguments).refused(code, *words)


@pytest.mark.slow
def test_a_type_is_listed_with_its_wait_rate_and_failures(jobdeck: Jobdeck, conn: Connection) -> None:
    assert jobdeck("types", "list").out == "No task types.\n"
    ended = conn.now().replace(second=30).timestamp() - 60.0
    for second, outcome in enumerate(("succeeded", "failed", "failed")):
        conn.add(max_attempts=1)
        conn.finish_one(conn.claim_one(), outcome, error="boom", started=ended, finished=ended + second)
    conn.add_waiting(conn.now() - timedelta(minutes=5))
    jobdeck("pause", "--type", "alpha", "--reason", "vendor is down")
    for _ in rounds("a reading within one minute"):
        minute = conn.value("SELECT job_stat_bucket(1, now())")
        conn.execute("UPDATE job_stat_delta SET minute = %s - interval '1 minute'", [minute])
        (row,) = jobdeck("types", "list", "--json").data["types"]
        if conn.value("SELECT job_stat_bucket(1, now())") == minute:
            break
    assert (row["pending"], row["failed"], row["at_least"]) == (1, 2, False)
    assert (row["succeeded_last_minute"], row["failed_last_minute"]) == (1, 2)
    assert (row["runs_15_minutes"], row["failure_share"], row["usual_failure_share"]) == (3, 0.6667, None)
    assert row["failed_in_a_row"] == 2
    assert 300 <= row["longest_wait_seconds"] < 3600
    assert row["paused_reason"] == "vendor is down"
    _, text = jobdeck("types", "list").out.splitlines()
    assert text.split()[:4] == ["alpha", "1", "0", "2"]
    assert "66.67 %" in text
    assert ": vendor is down" in text


def test_a_window_without_runs_has_no_share_of_failures(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.add()
    (row,) = jobdeck("types", "list", "--json").data["types"]
    assert (row["failure_share"], row["usual_failure_share"], row["runs_15_minutes"]) == (None, None, 0)


def test_without_a_word_it_lists_payloads_and_limits_as_before_and_needs_no_database(jobdeck: Jobdeck) -> None:
    nowhere = ("--database-url", "postgresql://127.0.0.1:1/none")
    ran = jobdeck("types", *nowhere)
    assert ran.code == 0
    assert "attempts" in ran.out
    data = jobdeck(*nowhere, "types", "--json").data
    assert "payload_schema" in data["types"][0]
    assert data == jobdeck("types", "--json").data


def test_an_unknown_word_is_refused_with_the_nearest(jobdeck: Jobdeck) -> None:
    jobdeck("types", "lits").refused(2, 'did you mean "list"')
    jobdeck("type", "list").refused(2, 'did you mean "types"')


@pytest.mark.slow
def test_limits_are_set_listed_and_taken_away(jobdeck: Jobdeck, conn: Connection) -> None:
    given = ("--max-running", "5", "--rate", "100/m", "--burst", "20", "--max-per-key", "2", "--key-rate", "5/10s")
    found = jobdeck("types", "set", "cli_echo", *given, "--max-age", "1d12h", "--json").data
    assert {name: found[name] for name in found if name.startswith(("max_", "rate_", "key_"))} == {
        "max_running": 5, "max_per_key": 2, "rate_runs": 100, "rate_seconds": 60, "rate_burst": 20, "key_rate_runs": 5,
        "key_rate_seconds": 10, "max_age_seconds": 129_600,
    }  # fmt: skip
    words = "0 of 5 run; 100/m start, 20 at once; 2 per key run; 5/10s per key start; cancelled 1d12h after due"
    assert words in jobdeck("types", "list").out.splitlines()[1]
    nothing = ("--max-running", "none", "--rate", "none", "--max-per-key", "none", "--key-rate", "none")
    jobdeck("types", "set", "cli_echo", *nothing, "--max-age", "none")
    assert "run;" not in jobdeck("types", "list").out
    assert conn.execute("SELECT limited, rate_burst FROM job_types").fetchone() == (False, None)


@pytest.mark.slow
def test_the_values_of_the_code_are_listed_with_their_release_and_hold_again_on_request(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    start(conn, "shop@7", "new", "cli_echo", max_running=5, rate="100/m", priority=3)
    listed = jobdeck("types", "list").out.splitlines()[1]
    assert "0 of 5 run; 100/m start; priority 3" in listed
    assert listed.endswith("5 run; 100/m start; priority 3 (shop@7)")
    found = jobdeck(
        "types", "set", "cli_echo", "--max-running", "9", "--rate", "none", "--priority", "-4", "--json"
    ).data
    assert (found["max_running"], found["rate_runs"], found["priority"]) == (9, None, -4)
    assert (found["code"]["max_running"], found["own"]["max_running"], found["release"]) == (5, 9, "shop@7")
    assert "(shop@7); operators set max-running, rate, priority" in jobdeck("types", "list").out
    again = ("--max-running", "code", "--rate", "code", "--priority", "code", "--max-age", "code", "--burst", "code")
    jobdeck("types", "set", "cli_echo", *again)
    assert jobdeck("types", "list").out.splitlines()[1] == listed


@pytest.mark.slow
def test_a_type_is_put_into_a_queue_and_the_queues_are_listed_with_their_figures(
    jobdeck: Jobdeck, conn: Connection
) -> None:
    assert jobdeck("types", "queues").out == "No task types.\n"
    start(conn, "shop@7", "new", "cli_echo", queue="mail")
    enqueued(conn)
    enqueued(conn, "foreign_type")
    jobdeck("pause", "--type", "cli_echo")
    head, default, mail = jobdeck("types", "queues").out.splitlines()
    assert head.split() == ["QUEUE", "TYPES", "PENDING", "RUNNING", "FAILED", "PAUSED"]
    assert (default.split(), mail.split()) == (["default", "1", "1", "0", "0", "0"], ["mail", "1", "1", "0", "0", "1"])
    jobdeck("types", "set", "foreign_type", "--queue", "mail")
    (only,) = jobdeck("types", "queues", "--json").data["queues"]
    assert (only["queue"], only["types"], only["pending"]) == ("mail", ["cli_echo", "foreign_type"], 2)
    jobdeck("types", "set", "cli_echo", "--queue", "default")
    jobdeck("types", "set", "foreign_type", "--queue", "none")
    assert [one["queue"] for one in jobdeck("types", "queues", "--json").data["queues"]] == ["default"]
    jobdeck("types", "set", "cli_echo", "--queue", "two words").refused(1, "letters, digits, dots, hyphens")


@pytest.mark.slow
def test_a_setting_of_a_queue_is_set_for_each_of_its_types(jobdeck: Jobdeck, conn: Connection) -> None:
    start(conn, "shop@7", "new", "cli_echo", queue="mail", max_running=3)
    for name in ("foreign_type", "other_type"):
        enqueued(conn, name)
    jobdeck("types", "set", "foreign_type", "--queue", "mail")

    def limits() -> dict[str, int | None]:
        return {one["task_type"]: one["max_running"] for one in jobdeck("types", "list", "--json").data["types"]}

    of_mail = ("types", "set", "--in-queue", "mail", "--max-running")
    looked = jobdeck(*of_mail, "5", "--dry-run")
    assert looked.out.splitlines()[0] == "The settings would be:"
    assert [line.split()[0] for line in looked.out.splitlines()[2:]] == ["cli_echo", "foreign_type"]
    assert limits() == {"cli_echo": 3, "foreign_type": None, "other_type": None}
    done = jobdeck(*of_mail, "5", "--json").data
    assert (done["queue"], [one["max_running"] for one in done["types"]], done["dry_run"]) == ("mail", [5, 5], False)
    jobdeck("types", "set", "other_type", "--queue", "mail")
    assert limits() == {"cli_echo": 5, "foreign_type": 5, "other_type": None}
    jobdeck(*of_mail, "code")
    assert limits() == {"cli_echo": 3, "foreign_type": None, "other_type": None}


def test_a_setting_of_a_queue_that_cannot_be_is_refused_for_all(jobdeck: Jobdeck, conn: Connection) -> None:
    for name in ("cli_echo", "foreign_type"):
        enqueued(conn, name)
    for name, unlike in (("cli_echo", "80%"), ("foreign_type", "20%")):
        jobdeck("types", "set", name, "--queue", "mail", "--critical", unlike)
    with conn.changes_nothing():
        jobdeck("types", "set", "--in-queue", "mial", "--max-running", "5").refused(
            1, "No task type is in the queue mial. The queues are default, mail. Nothing was changed."
        )
        jobdeck("types", "set", "--in-queue", "mail", "--warn", "50%").refused(1, "above")
        jobdeck("types", "set", "cli_echo", "--in-queue", "mail", "--max-running", "5").refused(2, "and not both")
        jobdeck("types", "set", "--max-running", "5").refused(2, "Give a TYPE or --in-queue")


@pytest.mark.slow
def test_two_live_releases_that_differ_are_named(jobdeck: Jobdeck, conn: Connection) -> None:
    start(conn, "shop@6", "old", "cli_echo", max_running=4)
    start(conn, "shop@7", "new", "cli_echo", max_running=5)
    assert "5 run (shop@7); live workers of shop@6 say otherwise" in jobdeck("types", "list").out
    found = {one["signal"]: one for one in jobdeck("doctor", "--json").data["findings"]}["limits in code"]
    assert found["verdict"] == "warning"
    assert found["evidence"] == (
        "Live releases disagree; the one in brackets holds. cli_echo: 5 run (shop@7); live workers of shop@6 say "
        "otherwise."
    )


@pytest.mark.slow
def test_doctor_says_whose_limits_hold(jobdeck: Jobdeck, conn: Connection) -> None:
    def said() -> dict[str, str]:
        return {one["signal"]: one["evidence"] for one in jobdeck("doctor", "--json").data["findings"]}

    assert "limits in code" not in said()
    start(conn, "shop@7", "new", "cli_echo", max_running=5)
    assert said()["limits in code"] == "What the code says of 1 task type holds."
    jobdeck("types", "set", "cli_echo", "--max-running", "9")
    assert said()["limits in code"] == (
        "cli_echo: 5 run (shop@7); operators set max-running. `jobdeck types set TYPE --max-running code` takes back "
        "what operators set."
    )


@pytest.mark.parametrize(
    ("given", "is_warned"),
    [
        (("--max-per-key", "2"), True),
        (("--key-rate", "5/m"), True),
        (("--max-per-key", "none"), False),
        (("--key-rate", "none"), False),
        (("--max-running", "2"), False),
    ],
)
def test_a_limit_for_each_key_of_a_type_without_one_is_set_with_a_warning(
    jobdeck: Jobdeck, given: tuple[str, ...], is_warned: bool
) -> None:
    ran = jobdeck("types", "set", "cli_echo", *given)
    assert ran.code == 0
    assert ("The jobs of cli_echo have no concurrency key" in ran.err) is is_warned
    assert "concurrency key" not in jobdeck("types", "set", "sms_digest_processor", *given).err


@pytest.mark.parametrize(("rule", "is_warned"), [(None, True), ("payload:customerId", False)])
def test_the_same_is_said_of_a_type_that_only_another_program_handles(
    jobdeck: Jobdeck, conn: Connection, rule: str | None, is_warned: bool
) -> None:
    conn.execute("INSERT INTO job_queue (task_type) VALUES ('elsewhere')")
    conn.execute("SELECT job_types_declare('{elsewhere}', ARRAY[%s]::text[])", [rule])
    ran = jobdeck("types", "set", "elsewhere", "--max-per-key", "2")
    assert ran.code == 0
    assert ("The jobs of elsewhere have no concurrency key" in ran.err) is is_warned


def test_a_limit_below_what_runs_is_set_and_says_what_happens(jobdeck: Jobdeck, conn: Connection) -> None:
    for _ in range(3):
        enqueued(conn)
    assert len(leases.claim(conn, "w", ["cli_echo"], 3, 60)) == 3
    ran = jobdeck("types", "set", "cli_echo", "--max-running", "2")
    assert ran.code == 0
    assert "3 jobs of cli_echo run and end as they would. None starts until fewer than 2 run." in ran.err
    assert conn.value("SELECT count(*) FROM job_queue WHERE status = 'running'") == 3


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (("--max-running", "0"), 1, "To run none, pause the type. Nothing was changed."),
        (("--max-running", "many"), 2, "--max-running needs a whole number such as 5, or none; 'many' is neither."),
        (("--rate", "fast"), 2, '"fast" is not a rate. Write the --rate like 100/m, 5/10s or 1000/h.'),
        (("--rate", "10/0s"), 2, "is not a rate"),
        (("--rate", "0/m"), 1, "between 1 and 1,000,000 runs, and 0 is not"),
        (("--burst", "5"), 1, "the type has no rate"),
        (("--max-age", "soon"), 2, "is not a duration"),
        (("--priority", "101"), 1, "A priority must be between -100 and 100, and 101 is not."),
        (("--lost", "code"), 2, "needs a whole number"),
        (("--max-age", "500d"), 1, "between a second and 366 days"),
    ],
)
def test_what_is_no_limit_is_refused_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, given: tuple[str, ...], code: int, words: str
) -> None:
    jobdeck("types", "set", "cli_echo", *given).refused(code, words)
    assert conn.value("SELECT count(*) FROM job_types WHERE limited OR max_age_seconds IS NOT NULL") == 0
