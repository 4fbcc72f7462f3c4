"""What all commands have in common: options, exit codes, and one sentence for whatever goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from jobdeck.core import schema
from jobdeck.core.cli.app import COMMANDS, PURPOSES, commands, main
from jobdeck.core.plugins import use_plugins
from tests.core.cli.support import ROOT, Jobdeck, environment, finish, ran_alone, runner, started
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE

NOWHERE = "postgresql://someone:hunter2@127.0.0.1:1/nowhere"
OWN_ROLES = ("--roles", "--roles-prefix", "own_")
"""Roles belong to the server: those of another test may still have rights in its database."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Jobdeck:
    """Runs commands with no database to reach."""
    environment(monkeypatch, tmp_path, NOWHERE)
    return runner(capsys)


def test_every_command_of_the_table_is_there_and_helps(offline: Jobdeck) -> None:
    whole = offline("--help")
    assert whole.code == 0
    for name in commands():
        helped = offline(name, "--help")
        assert helped.code == 0
        assert helped.err == ""
        assert "--database-url" in helped.out
        assert "--handlers" in helped.out
        assert f"  {name} " in whole.out


@pytest.mark.slow
def test_help_and_completion_load_nothing_of_the_model_and_of_what_is_printed() -> None:
    code = "import sys, jobdeck.core.cli.app; print(*(name for name in sys.modules if 'jobdeck.core.' in name))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert {name.removeprefix("jobdeck.core.") for name in ran.stdout.split()} == {
        "cli", "cli.app", "cli.completing", "cli.session", "config_file", "errors", "plugins", "settings",
    }  # fmt: skip


def test_the_help_shows_the_line_of_each_command_whole_at_80_columns(
    offline: Jobdeck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = offline("--help").out.partition("\nLook:")[2].partition("Exit codes:")[0].splitlines()
    listed = [line for line in lines if line.startswith("  ") and line.strip()]
    assert len(listed) == len(commands())
    assert len({len(line) - len(line[2:].partition(" ")[2].lstrip()) for line in listed}) == 1
    assert [line for line in listed if "..." in line] == []


def test_the_help_lists_every_command_once_under_what_one_wants_to_do() -> None:
    placed = [name for names in PURPOSES.values() for name in names]
    assert len(placed) == len(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs"], ["runs"], ["bulk", "list"], ["bulk", "show"], ["errors"], ["audit"], ["digest"], ["cleanup"],
        ["purge"], ["run-worker"],
    ],
)  # fmt: skip
def test_help_shows_the_defaults_of_limits_and_periods(offline: Jobdeck, arguments: list[str]) -> None:
    options = re.split(r"\n  (?=-)", offline(*arguments, "--help").out)
    shown = [text for text in options if re.match(r"--(limit|since|older-than) ", text)]
    assert shown
    assert [text for text in shown if "default" not in text.lower()] == []


def test_the_version_is_printed(offline: Jobdeck) -> None:
    assert offline("--version").out.startswith("jobdeck")


def test_without_a_command_the_help_is_an_error_of_usage(offline: Jobdeck) -> None:
    assert offline().code == 2


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["jobs", "--frobnicate"], ["jobs", "--limit", "many"], ["enqueue"]]
)
def test_what_is_no_command_or_option_is_one_sentence_that_names_the_help(
    offline: Jobdeck, arguments: list[str]
) -> None:
    offline(*arguments).refused(2, "--help")


@pytest.mark.parametrize("name", ["jobs", "status", "health", "doctor", "pause", "run-worker", "purge", "init"])
def test_a_database_that_is_away_is_exit_code_3_and_its_password_stays_secret(offline: Jobdeck, name: str) -> None:
    ran = offline(name)
    ran.refused(3, "127.0.0.1:1/nowhere", "DATABASE_URL")
    assert "hunter2" not in ran.err


def test_an_address_that_is_none_is_refused_without_repeating_it(offline: Jobdeck) -> None:
    ran = offline("jobs", "--database-url", "postgresql://u:hunter2@[::1/x")
    ran.refused(1, "DATABASE_URL")
    assert "hunter2" not in ran.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOBDECK_LEASE_SECONDS", "soon"),
        ("JOBDECK_CONCURRENCY", "0"),
        ("GAME_PLATFORM_API_BASE_URL", "http://example.org"),
    ],
)
def test_a_wrong_setting_is_named(offline: Jobdeck, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    offline("jobs").refused(1, name)


def test_a_configuration_file_that_is_missing_is_named(offline: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDECK_CONFIG", "/nowhere/jobdeck.toml")
    offline("types").refused(1, "JOBDECK_CONFIG", "/nowhere/jobdeck.toml")


def test_a_handler_module_that_is_missing_is_named(offline: Jobdeck) -> None:
    offline("types", "--handlers", "no_such_module").refused(1, "no_such_module", "PYTHONPATH")


@pytest.mark.parametrize("placed", [["--json", "jobs"], ["jobs", "--json"]])
def test_shared_options_stand_before_or_after_the_name(offline: Jobdeck, database_url: str, placed: list[str]) -> None:
    before = ["--database-url", database_url]
    assert offline(*before, *placed).data == {"jobs": [], "next": None}
    assert offline(*placed, *before).data == {"jobs": [], "next": None}


def test_an_option_wins_over_the_environment(offline: Jobdeck) -> None:
    listed = offline("--handlers", "tests.core.cli.handlers", "types", "--json").data
    assert "cli_echo" in [found["task_type"] for found in listed["types"]]
    offline("types", "--handlers", "no_such_module").refused(1, "no_such_module")


@pytest.mark.installation
def test_a_database_without_the_schema_says_how_to_install_it(offline: Jobdeck, empty_database_url: str) -> None:
    url = ["--database-url", empty_database_url]
    offline("jobs", *url).refused(1, "jobdeck init")
    assert offline("init", "--dry-run", *url).code == 0
    offline("jobs", *url).refused(1, "jobdeck init")
    assert offline("init", "--json", *url).data["version"] == schema.schema_version()
    assert offline("init", *url).code == 0
    assert offline("jobs", *url).code == 0


def test_a_schema_newer_than_the_program_is_refused_by_every_command(jobdeck: Jobdeck, conn: Connection) -> None:
    conn.execute("INSERT INTO jobdeck_schema (version) VALUES (%s)", [schema.schema_version() + 1])
    for name in ("jobs", "status", "run-worker", "init", "pause"):
        jobdeck(name).refused(1, "newer", "Upgrade")


def test_what_nobody_foresaw_is_one_sentence_and_a_traceback_in_the_log(
    offline: Jobdeck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @click.command("types")
    def broken() -> None:
        raise ZeroDivisionError("secret of someone@example.org")

    log = tmp_path / "jobdeck.log"
    monkeypatch.setenv("JOBDECK_LOG_FILE", str(log))
    monkeypatch.setattr("jobdeck.core.cli.commands.look.types.types", broken)
    ran = offline("types")
    ran.refused(1, "ZeroDivisionError", str(log))
    assert "example.org" not in ran.err
    written = log.read_text()
    assert "Traceback" in written
    assert "example.org" not in written


def test_without_a_log_file_the_traceback_goes_to_the_state_folder(
    offline: Jobdeck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @click.command("types")
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("jobdeck.core.cli.commands.look.types.types", broken)
    log = tmp_path / "state" / "jobdeck.log"
    offline("types").refused(1, "ZeroDivisionError", str(log))
    assert "Traceback" in log.read_text()


def test_an_argument_that_is_not_utf_8_is_refused(offline: Jobdeck) -> None:
    offline("jobs", "--search", os.fsdecode(b"\xff")).refused(2, "UTF-8")


def test_hostile_text_in_an_argument_is_harmless_in_the_answer(offline: Jobdeck) -> None:
    ran = offline("jobs", "--\x1b[31mred")
    assert "\x1b" not in ran.err
    assert ran.code == 2


def test_an_interrupt_is_exit_code_130_and_silent(offline: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("types")
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobdeck.core.cli.commands.look.types.types", interrupted)
    ran = offline("types")
    assert (ran.code, ran.out, ran.err) == (130, "", "")


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_command_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, tmp_path, NOWHERE)
    with started("types", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_standing_command_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, code: int
) -> None:
    environment(monkeypatch, tmp_path, NOWHERE)
    with started("sandbox", "--json") as process:
        assert process.stderr is not None
        assert "SIGTERM" in process.stderr.readline()
        process.send_signal(number)
        ran = finish(process)
    assert ran.code == code
    assert json.loads(ran.out)["environment"]["GAME_PLATFORM_INTEGRATION_ENABLED"] == "true"


def test_a_rule_of_the_sandbox_that_is_none_is_refused(offline: Jobdeck) -> None:
    offline("sandbox", "--fail", "sometimes").refused(2, "sometimes")


@pytest.mark.slow
def test_python_m_core_is_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, tmp_path, NOWHERE)
    ran_alone("jobs").refused(3, "127.0.0.1:1/nowhere")
    listed = ran_alone("types", "--json")
    assert listed.code == 0
    assert "cli_echo" in listed.out


@pytest.mark.slow
def test_without_handlers_types_says_how_to_name_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment(monkeypatch, tmp_path, NOWHERE)
    listed = ran_alone("types", JOBDECK_PLUGINS="", JOBDECK_HANDLERS="")
    assert (listed.code, listed.out) == (
        0, "No task types. Name the modules that register them in JOBDECK_HANDLERS or --handlers.\n"
    )  # fmt: skip


@pytest.mark.slow
def test_without_handlers_a_worker_says_that_it_takes_no_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str
) -> None:
    environment(monkeypatch, tmp_path, database_url)
    sentence = "No job is taken, because this program has no task types. Name the modules that register them in "
    none = {"JOBDECK_PLUGINS": "", "JOBDECK_HANDLERS": ""}
    assert sentence in ran_alone("run-worker", **none).out
    assert sentence in ran_alone("worker", "--drain", **none).err
    ran_alone("enqueue", "cli_echo", **none).refused(1, 'Unknown task type "cli_echo". No task types. Name the modules')


def test_main_returns_its_exit_code_and_never_exits() -> None:
    assert main(["--help"]) == 0


@pytest.mark.installation
def test_init_with_roles_creates_them_and_grants_them_their_rights(jobdeck: Jobdeck, conn: Connection) -> None:
    try:
        assert jobdeck("init", *OWN_ROLES, "--json").data["roles"] is True
        may = (
            "SELECT has_table_privilege('own_viewer', 'job_list', 'select'), has_function_privilege(%s, %s, 'execute')"
        )
        claims = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'job_queue_claim' AND pronargs > 1"
        claim = conn.value(claims)
        assert conn.execute(may, ["own_worker", claim]).fetchone() == (True, True)
        assert conn.execute(may, ["own_operator", claim]).fetchone() == (True, False)
        short = "job_queue_enqueue(text, jsonb, timestamptz, integer)"
        assert conn.execute(may, ["own_producer", short]).fetchone() == (True, True)
        assert jobdeck("init", "--roles").code == 0
    finally:
        drop_own_roles(conn)


def drop_own_roles(conn: Connection) -> None:
    for statement in ("DROP OWNED BY {}", "DROP ROLE {}"):
        groups = sql.SQL("own_viewer, own_operator, own_worker, own_producer")
        conn.execute(sql.SQL(statement).format(groups))


@pytest.mark.slow
def test_a_queue_works_in_a_schema_of_its_own(
    offline: Jobdeck, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    with use_plugins():
        told = offline("init", "--schema", "jobs")
        assert "JOBDECK_SCHEMA=jobs" in told.out
        offline("jobs").refused(1, "jobdeck init")
        monkeypatch.setenv("JOBDECK_SCHEMA", "jobs")
        assert offline("enqueue", "cli_echo").code == 0
        assert [job["task_type"] for job in offline("jobs", "--json").data["jobs"]] == ["cli_echo"]
        assert "succeeded" in offline("run-worker").out
        assert offline("jobs", "--json").data["jobs"] == []
    with Connection.connect(empty_database_url) as conn:
        assert conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


@pytest.mark.parametrize("wrong", [("--schema", "Jobs"), ("--schema", "a b"), ("--roles-prefix", "Jobs-")])
def test_a_schema_or_prefix_that_is_no_plain_name_is_refused(offline: Jobdeck, wrong: tuple[str, str]) -> None:
    offline("init", *wrong).refused(2, wrong[0])


@pytest.mark.slow
def test_a_role_that_may_only_look_is_told_so(jobdeck: Jobdeck, conn: Connection, database_url: str) -> None:
    try:
        assert jobdeck("init", *OWN_ROLES).code == 0
        conn.execute("CREATE ROLE looker LOGIN IN ROLE own_viewer")
        as_looker = ["--database-url", make_conninfo(database_url, user="looker")]
        assert jobdeck("jobs", *as_looker).code == 0
        assert jobdeck("status", *as_looker).code == 0
        with conn.changes_nothing():
            jobdeck("pause", *as_looker).refused(1, "may not", "own_operator")
            jobdeck("enqueue", "cli_echo", *as_looker).refused(1, "may not")
    finally:
        conn.execute("DROP ROLE IF EXISTS looker")
        drop_own_roles(conn)


def test_a_connection_that_is_lost_half_way_is_exit_code_3_and_says_what_is_unknown(
    jobdeck: Jobdeck, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def severed(connection: Connection, **_: Any) -> None:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr("jobdeck.core.queue.operator.pause", severed)
    with conn.changes_nothing():
        jobdeck("pause", "--reason", "x").refused(3, "lost", "before you repeat")


def test_a_value_that_the_database_cannot_take_is_refused(jobdeck: Jobdeck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "jobdeck.core.queue.operator.pause", lambda conn, **_: conn.execute("SELECT 'soon'::timestamptz")
    )
    jobdeck("pause").refused(2, "rejected", "soon")
