"""The program's entry, as a shell sees it."""

from __future__ import annotations

import os
import sys

import pytest

from jobdeck.core.cli import app
from jobdeck.core.settings import Settings
from jobdeck.tui import run
from jobdeck.tui.__main__ import main
from jobdeck.tui.terminal import options


def test_a_reader_of_the_help_who_has_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "main", lambda _arguments: 0)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["--help"]) == 0
        monkeypatch.undo()


@pytest.mark.parametrize("words", [["demo"], ["demo", "--calm"]], ids=" ".join)
def test_without_a_terminal_the_demo_is_the_command_with_its_words(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []

    def command(arguments: list[str]) -> int:
        given.append(arguments)
        return 0

    monkeypatch.setattr(options, "terminal_is_fit", lambda: False)
    monkeypatch.setattr("jobdeck.tui.__main__._command", command)
    assert main(words) == 0
    assert given == [words]


def test_only_the_demo_can_be_calm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--calm"]) == 2
    assert main(["--read-only", "--calm"]) == 2
    assert "--calm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("urls", "one", "listed", "several"),
    [
        ((), None, {}, False),
        (("a",), None, {}, False),
        (("a", "b"), None, {}, True),
        (("a", "b"), "d", {}, True),
        ((), None, {"x": "a"}, True),
        (("a",), None, {"x": "a"}, False),
        ((), "d", {"x": "a"}, False),
    ],
)
def test_several_databases_are_a_fleet_and_one_that_is_named_wins_over_the_list(
    urls: tuple[str, ...], one: str | None, listed: dict[str, str], several: bool
) -> None:
    settings = Settings.model_validate({"database_url": one, "databases": listed})
    assert options.Arguments(urls).names_fleet(settings) is several


HOSTILE = "\x1b]52;c;UFdORUQ=\x07\u202e\njane.doe@example.org"


def test_an_error_before_the_dashboard_is_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--refresh", HOSTILE]) == 2
    judge(capsys.readouterr().err)


def test_a_failure_of_the_dashboard_is_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    run._tell(f"jobdeck: {HOSTILE}")
    judge(capsys.readouterr().err)


def judge(written: str) -> None:
    assert written.startswith("jobdeck: ")
    assert written.endswith("\n")
    assert written[:-1].isprintable()
    assert "jane" not in written
