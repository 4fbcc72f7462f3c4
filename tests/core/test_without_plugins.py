"""In a program without plugins, on a database with the queue alone, nothing of the competition is there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobdeck.core import registry, settings
from jobdeck.core.cli.app import COMMANDS
from jobdeck.core.errors import UsageError
from jobdeck.core.http.openapi import describe
from jobdeck.core.plugins import load_plugins, use_plugins
from jobdeck.core.read.filters import completions, parse_filter
from tests.core.cli.support import HANDLERS, Jobdeck, ran_alone
from tests.core.http.support import opened
from tests.core.test_rules import WORDS_OF_THE_COMPETITION
from tests.support.waiting import rounds


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JOBDECK_PLUGINS")
    with use_plugins():
        yield


@pytest.fixture
def template_database(templates: Callable[[bool], str]) -> str:
    """A database with the queue alone."""
    return templates(False)


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder that the account of the embedded server can reach."""
    folder = Path(tempfile.mkdtemp(prefix="jobdeck-demo-"))
    folder.chmod(0o755)
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


def foreign_words(text: str) -> set[str]:
    return {word.lower() for word in WORDS_OF_THE_COMPETITION.findall(text)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["types"],
        ["types", "--json"],
        ["serve", "--openapi"],
        *([name, "--help"] for name in COMMANDS if name != "quick-sync"),
    ],
    ids=" ".join,
)
def test_no_command_says_a_word_of_the_competition(
    jobdeck: Jobdeck, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBDECK_HANDLERS", "jobdeck.core.cli.demo.jobs")
    ran = jobdeck(*arguments)
    assert ran.code == 0
    assert foreign_words(ran.out + ran.err) == set()


def test_a_process_without_plugins_has_none_of_their_commands() -> None:
    ran = ran_alone("--help", JOBDECK_PLUGINS="")
    assert foreign_words(ran.out) == set()
    assert "quick-sync" not in ran.out
    assert "demo" in ran.out


@pytest.mark.parametrize("command", ["campaign", "receipts", "events", "sandbox", "quick-sync"])
def test_a_command_of_the_competition_is_no_command(jobdeck: Jobdeck, command: str) -> None:
    jobdeck(command).refused(2, f'Unknown command "{command}"')


@pytest.mark.parametrize("command", ["doctor", "health", "status", "digest"])
def test_no_finding_speaks_of_the_competition(jobdeck: Jobdeck, command: str) -> None:
    ran = jobdeck(command, "--json")
    assert ran.code in {0, 4}
    assert foreign_words(ran.out + ran.err) == set()


def test_only_the_named_task_types_are_there(jobdeck: Jobdeck) -> None:
    assert load_plugins() == ()
    assert len(registry.load()) == 0
    assert [one["task_type"] for one in jobdeck("types", "--json").data["types"]] == registry.load([HANDLERS]).names


def test_a_wrong_setting_of_the_competition_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIET_HOURS", "9 to 5")
    assert foreign_words(" ".join(type(settings.load()).model_fields)) == set()


def test_the_filter_has_no_key_of_the_competition() -> None:
    assert completions("", []) == ["type:", "status:", "error:", "age>", "attempts>=", "outcome:"]
    with pytest.raises(UsageError, match='Unknown filter key "coach"'):
        parse_filter("coach:7")


def test_the_server_serves_no_webhook(database_url: str) -> None:
    assert foreign_words(json.dumps(describe())) == set()
    with opened(database_url) as door:
        assert door.call("POST", "/api/sendgrid/events").status == 404
        assert door.call("POST", "/api/twilio/status").status == 404
        assert door.run().status == 200


@pytest.mark.slow
def test_the_demo_shows_a_recurring_job_a_wrong_payload_and_progress(state: Path) -> None:
    for _ in rounds("a failed invoice"):
        # Each demo continues with the jobs of the one before.
        ran = ran_alone("demo", "--headless", "8", "--json", JOBDECK_PLUGINS="", DATABASE_URL="", JOBDECK_HANDLERS="")
        outcomes = {(found["task_type"], found["outcome"]): found["count"] for found in ran.data["recent_runs"]}
        if {("demo_check_links", "succeeded"), ("demo_send_invoice", "failed")} <= outcomes.keys():
            break
    assert outcomes["demo_check_links", "succeeded"] >= 1
    assert outcomes["demo_send_invoice", "failed"] == 1
    assert ran.data["counts"]["running"] + ran.data["counts"]["pending"] > 0
    assert foreign_words(ran.out) == set()
    assert (state / "demo-queue").is_dir()
