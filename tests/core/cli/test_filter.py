"""`filter`: a person's own filters, and `--filter @NAME` wherever a filter is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.cli.support import Jobdeck, enqueued
from tests.support.queue import Connection


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of the person."""
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "preferences.json"


def test_filters_are_saved_listed_and_deleted(jobdeck: Jobdeck, state: Path) -> None:
    assert jobdeck("filter", "list").out == "No saved filters.\n"
    assert (
        jobdeck("filter", "save", "Late", "type:cli_echo age>2h").out == "Saved as @late. Use it with --filter @late.\n"
    )
    assert jobdeck("filter", "list", "--json").data["filters"] == [
        {"name": "late", "filter": "type:cli_echo age>2h", "trouble": None}
    ]
    assert "@late" in jobdeck("filter", "list").out
    before = state.read_bytes()
    jobdeck("filter", "save", "late", "nope:1").refused(2, "Unknown filter key")
    jobdeck("filter", "save", "a b", "age>2h").refused(2, "1 to 40 letters")
    jobdeck("filter", "delete", "lat").refused(2, 'did you mean "late"')
    assert state.read_bytes() == before
    assert jobdeck("filter", "delete", "@late").code == 0
    assert jobdeck("filter", "list", "--json").data["filters"] == []


@pytest.mark.parametrize(
    "command", [["jobs"], ["cancel", "--yes"], ["edit", "--set", "message=moved", "--yes"], ["retry", "--dry-run"]]
)
def test_a_saved_filter_is_used_wherever_a_filter_is_accepted(
    jobdeck: Jobdeck, conn: Connection, command: list[str]
) -> None:
    wanted = enqueued(conn, message="here")
    other = enqueued(conn, "cli_refuse")
    jobdeck("filter", "save", "echoes", "type:cli_echo")
    ran = jobdeck(*command, "--filter", "@Echoes", "--json")
    assert ran.code == 0
    assert str(other) not in ran.out
    if command[0] != "edit":
        assert str(wanted) in ran.out
    assert ran.data.get("done", 1) == 1


@pytest.mark.slow
def test_one_that_no_longer_parses_is_said_and_changes_nothing(jobdeck: Jobdeck, conn: Connection, state: Path) -> None:
    enqueued(conn)
    jobdeck("filter", "save", "old", "age>2h")
    state.write_text(state.read_text().replace("age>2h", "age>soon"))
    with conn.changes_nothing():
        for command in ("jobs", "cancel", "delete"):
            jobdeck(command, "--filter", "@old").refused(
                2, "The saved filter old can no longer be read", "filter delete old"
            )
            jobdeck(command, "--filter", "@new").refused(2, 'No filter is saved as "new"')
    assert "age>soon" in jobdeck("filter", "list").out
    assert "soon" in jobdeck("filter", "list", "--json").data["filters"][0]["trouble"]


def test_a_broken_file_is_named_once_and_other_filters_go_on(jobdeck: Jobdeck, state: Path) -> None:
    state.parent.mkdir()
    state.write_text("{")
    jobdeck("filter", "list").refused(1, "preferences.json", "not JSON")
    jobdeck("filter", "save", "late", "age>2h").refused(1, "Nothing was changed")
    assert jobdeck("jobs", "--filter", "age>2h").code == 0
    assert state.read_text() == "{"
