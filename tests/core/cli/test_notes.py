"""`note`, `mute`, `unmute`, and the hand-over as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core.queue import operator
from jobdeck.core.queue.operators import notes
from tests.core.cli.support import Jobdeck
from tests.support.queue import ACTOR, Connection


def failed(conn: Connection, error: str = "the vendor answered 503") -> None:
    conn.add(max_attempts=1)
    conn.run_once(outcome="failed", error=error, error_kind="vendor")


@pytest.mark.slow
def test_a_note_is_left_listed_and_acknowledged(jobdeck: Jobdeck, conn: Connection) -> None:
    left = jobdeck("note", "the vendor calls back", "--days", "3", "--json").data["note"]
    for arguments in (["note"], ["status"], ["digest"], ["digest", "--markdown"]):
        assert "the vendor calls back" in jobdeck(*arguments).out, arguments
    with conn.changes_nothing():
        assert jobdeck("note", "--acknowledge", str(left), "--dry-run").out == "No open notes.\n"
    jobdeck("note", "--acknowledge", str(left))
    assert jobdeck("note").out == "No open notes.\n"
    assert jobdeck("status", "--json").data["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["note", "x", "--days", "0"], 2, "days"),
        (["note", "x", "--acknowledge", "1"], 2, "--acknowledge"),
        (["note", "--days", "3"], 2, "needs the text"),
        (["note", " "], 1, "1 to 2,000"),
        (["note", "--acknowledge", "77"], 1, "no open note 77"),
        (["mute", "alpha", "abc"], 2, "--for or --until"),
        (["mute", "alpha", "zzz", "--for", "2h"], 1, "jobdeck errors"),
        (["mute", "beta", "", "--for", "2h"], 1, "jobdeck errors"),
        (["mute", "alpha", "", "--until", "2020-01-01"], 1, "in the past"),
        (["unmute", "alpha", ""], 1, "jobdeck errors"),
        (["digest", "--output", "x"], 2, "--markdown"),
        (["digest", "--markdown", "--json"], 2, "not both"),
        (["digest", "--markdown", "--output", "/nowhere/x"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    jobdeck: Jobdeck, conn: Connection, arguments: list[str], code: int, words: str
) -> None:
    failed(conn)
    with conn.changes_nothing():
        jobdeck(*arguments).refused(code, words)


@pytest.mark.slow
def test_a_group_is_muted_by_the_beginning_of_its_fingerprint(jobdeck: Jobdeck, conn: Connection) -> None:
    failed(conn)
    assert " new " in jobdeck("errors").out
    (group,) = jobdeck("errors", "--json").data["errors"]
    assert (group["new"], group["muted"]) == (True, None)
    jobdeck("mute", "alpha", group["fingerprint"][:6], "--for", "2h", "--reason", "known")
    assert "muted until" in jobdeck("errors").out
    (group,) = jobdeck("errors", "--json").data["errors"]
    assert group["muted"]["reason"] == "known"
    assert "muted until" in jobdeck("digest").out
    jobdeck("unmute", "alpha", group["fingerprint"], "--reason", "mended")
    assert "muted until" not in jobdeck("errors").out
    assert [row["reason"] for row in conn.audit_rows("unmute errors")] == ["mended"]


@pytest.mark.slow
def test_the_hand_over_is_written_to_a_new_file_alone(jobdeck: Jobdeck, conn: Connection, tmp_path: Path) -> None:
    failed(conn, "no *answer* for ada@example.org <b>")
    operator.pause(conn, reason="vendor outage", actor=ACTOR, task_type="alpha")
    notes.add(conn, "call [the vendor](http://x)", actor=ACTOR)
    target = tmp_path / "hand-over.md"
    assert jobdeck("digest", "--markdown", "--output", str(target)).out == ""
    text = target.read_text(encoding="utf-8")
    for words in (
        "# Hand-over ", "## Notes", "## Errors", "**new** alpha: no \\*answer\\* for", "## Paused types",
        "vendor outage", "call \\[the vendor\\]", "- finished: 0 succeeded", "## Operators",
    ):  # fmt: skip
        assert words in text, words
    assert "ada@" not in text
    jobdeck("digest", "--markdown", "--output", str(target)).refused(1, "exists")
    assert target.read_text(encoding="utf-8") == text
