"""A database that holds the competition, and a program in which it is off: every way in says what switches it on."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from jobdeck.core.model import Verdict
from jobdeck.core.plugins import use_plugins
from jobdeck.core.queue import operator
from jobdeck.core.read.verdict.health import health
from tests.core.cli.support import ROOT, Jobdeck, environment
from tests.core.http.support import opened
from tests.support.health import announce, findings
from tests.support.queue import ACTOR, Connection
from tests.support.waiting import PATIENCE

TYPE = "game_platform_sync"
WORDS = "Set JOBDECK_PLUGINS=competition. The database holds this plugin, and it is off in this program."
LOGIN = ROOT / "deploy" / "profile" / "jobdeck.sh"


@pytest.fixture(autouse=True)
def not_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JOBDECK_PLUGINS")
    with use_plugins():
        yield


def evidence(conn: Connection) -> tuple[str, str]:
    (found,) = [one for one in health().run(conn).findings if one.name == "plugins"]
    return found.verdict.value, found.evidence


@pytest.mark.parametrize("command", ["status", "jobs", "health", "types"])
def test_each_command_begins_with_what_switches_it_on(jobdeck: Jobdeck, command: str) -> None:
    ran = jobdeck(command, "--json", *(["list"] if command == "types" else []))
    assert ran.err.splitlines()[0] == WORDS
    assert ran.data


def test_a_command_in_a_program_that_names_it_says_nothing(jobdeck: Jobdeck) -> None:
    from jobdeck.core.programme.plugin import plugin  # noqa: PLC0415 -- the others run without it

    with use_plugins(plugin):
        assert WORDS not in jobdeck("status").err


def test_an_installation_is_refused_with_it(jobdeck: Jobdeck) -> None:
    jobdeck("init").refused(1, WORDS, "Nothing was changed.")


def test_health_warns_and_is_critical_while_jobs_of_its_types_are_due(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    conn.add(TYPE, run_at=conn.now() + timedelta(hours=1))
    assert evidence(conn) == ("warning", WORDS)
    conn.add(TYPE)
    assert evidence(conn) == ("critical", WORDS)
    assert health().run(conn).verdict is Verdict.CRITICAL
    assert [one.subject for one in findings(conn, "cannot run")] == [TYPE]
    announce(conn, "competition-1", types=[TYPE])
    assert evidence(conn) == ("warning", WORDS)
    assert findings(conn, "cannot run") == []


def test_while_everything_is_paused_it_is_a_warning(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    conn.add(TYPE)
    operator.pause(conn, reason=None, actor=ACTOR)
    assert evidence(conn) == ("warning", WORDS)


def test_it_is_the_first_of_findings_that_are_as_bad(conn: Connection) -> None:
    announce(conn, types=["alpha"])
    conn.add(TYPE)
    conn.advance(timedelta(hours=1))
    announce(conn, types=["alpha"])
    found = health().run(conn).findings
    assert [one.signal for one in found[:2]] == ["plugins", "cannot run"]
    assert {one.verdict for one in found[:2]} == {Verdict.CRITICAL}


@pytest.mark.slow
def test_a_worker_says_it_first_and_runs_the_jobs_of_other_types(jobdeck: Jobdeck, conn: Connection) -> None:
    mine, theirs = conn.add("cli_echo"), conn.add(TYPE)
    ran = jobdeck("worker", "--drain")
    assert WORDS.partition(". ")[0] in ran.err.splitlines()[0]
    assert [run["outcome"] for run in conn.run_rows(mine.id)] == ["succeeded"]
    assert conn.job_row(theirs.id)["status"] == "pending"


@pytest.mark.slow
def test_the_server_asks_vendors_to_send_their_events_again(database_url: str) -> None:
    with opened(database_url, plugins_off=True) as door:
        answer = door.call("POST", "/api/sendgrid/events")
        assert answer.status == 503
        assert b"plugin" in answer.body
        assert door.run().status == 200


@pytest.mark.slow
def test_a_login_after_the_steps_of_the_documentation_has_the_competition(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "deploy/profile/jobdeck.sh" in (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    environment(monkeypatch, tmp_path, database_url)
    script = f". {shlex.quote(str(LOGIN))}; exec {shlex.quote(sys.executable)} -m jobdeck.tui"
    for arguments, words in (("--help", "quick-sync"), ("quick-sync --help", "incremental")):
        ran = subprocess.run(["/bin/sh", "-c", f"{script} {arguments}"], cwd=ROOT, env=os.environ, check=True,
                             capture_output=True, text=True, timeout=PATIENCE)  # fmt: skip
        assert words in ran.stdout
        assert WORDS not in ran.stderr
