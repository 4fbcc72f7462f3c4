"""`jobdeck` with several databases on a real terminal: into one of them, back, into another one, and out."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core.postgres.address import Address
from jobdeck.tui.__main__ import main
from tests.terminal.pty_terminal import Terminal

pytestmark = pytest.mark.slow

JOBDECK = ("-m", "tui")
LEAVE_SCREEN = b"\x1b[?1049l"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"JOBDECK_STATE_DIR": str(tmp_path), "JOBDECK_CONFIG": ""}


def test_enter_opens_one_and_q_goes_back(database_url: str, empty_database_url: str, environ: dict[str, str]) -> None:
    name = Address.parse(database_url).label
    arguments = [*JOBDECK, "--database-url", empty_database_url, "--database-url", database_url, "--worker"]
    with Terminal(arguments, size=(160, 24), environ=environ) as terminal:
        terminal.wait_for("no schema; run `jobdeck init` there")
        terminal.wait_for(lambda: "reading" not in terminal.text)
        assert "Fleet of 2" in terminal.lines[0]
        terminal.send("\r" if "critical" in terminal.lines[2] else "j\r")
        terminal.wait_for("q fleet")
        terminal.wait_for("(1 here)")
        assert name in terminal.lines[0]
        assert "Fleet" not in terminal.lines[0]
        terminal.send("q")
        terminal.wait_for("Fleet")
        terminal.wait_for("q quit")
        terminal.send("q")
        assert terminal.wait_for_end() == 0
        assert terminal.raw.count(LEAVE_SCREEN) == 3
        assert "Traceback" not in terminal.text


def test_the_same_database_twice_is_a_sentence_before_anything_is_drawn(
    database_url: str, environ: dict[str, str]
) -> None:
    twice = ["--database-url", database_url, "--database-url", database_url]
    with Terminal([*JOBDECK, *twice], size=(120, 24), environ=environ) as terminal:
        assert terminal.wait_for_end() == 1
        assert "Give each database once." in terminal.text
        assert b"\x1b" not in terminal.raw


def test_without_a_terminal_the_lines_are_printed_instead(
    database_url: str, empty_database_url: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("JOBDECK_STATE_DIR", environ["JOBDECK_STATE_DIR"])
    code = main(["--database-url", database_url, "--database-url", empty_database_url])
    assert code == 4
    assert "no schema; run `jobdeck init` there" in capsys.readouterr().out
