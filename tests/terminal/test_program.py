"""`jobdeck` as it is started: arguments, terminals it refuses, a real database behind it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from jobdeck.core import registry
from jobdeck.core.plugins import use_plugins
from jobdeck.core.programme.plugin import plugin
from jobdeck.tui.__main__ import main
from jobdeck.tui.terminal.options import Arguments, command_of, has_256_colours, parse, prepare_environment
from tests.support.waiting import PATIENCE
from tests.terminal.pty_terminal import ROOT, Terminal

JOBDECK = ("-m", "tui")


@pytest.fixture
def environ(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "JOBDECK_STATE_DIR": str(tmp_path), "JOBDECK_CONFIG": "",
            "JOBDECK_PLUGINS": "competition"}  # fmt: skip


@pytest.mark.parametrize(("arguments", "command"), [
    ([], None), (["--read-only", "--mouse"], None), (["--database-url", "postgres://x", "--worker"], None),
    (["--database-url=postgres://x"], None), (["jobs"], "jobs"), (["--database-url", "postgres://x", "jobs"], "jobs"),
    (["--refresh", "5"], None), (["--json", "jobs"], "--json"), (["--help"], "--help"), (["--nonsense"], "--nonsense"),
])  # fmt: skip
def test_the_first_word_that_is_no_option_of_the_dashboard_is_the_command(
    arguments: list[str], command: str | None
) -> None:
    assert command_of(arguments) == command


def test_the_dashboards_options_are_read() -> None:
    read = parse(["--read-only", "--worker", "--mouse", "--refresh", "5", "--handlers", "a,b", "--database-url=x"])
    assert read == Arguments(("x",), "a,b", read_only=True, worker=True, mouse=True, refresh=5.0)


@pytest.mark.parametrize(("given", "theme", "kept"), [
    ({}, "jobdeck-dark", None),
    ({"TEXTUAL_THEME": "jobdeck-light"}, "jobdeck-light", None),
    ({"TEXTUAL_THEME": "ansi-light"}, "ansi-light", "ansi-light"),
    ({"TERM": "xterm-256color"}, "jobdeck-dark", None),
    ({"TERM": "xterm", "COLORTERM": "truecolor"}, "jobdeck-dark", None),
    ({"TERM": "linux"}, "ansi-dark", "ansi-dark"),
    ({"TERM": "linux", "TEXTUAL_THEME": "jobdeck-light"}, "jobdeck-light", None),
    ({"NO_COLOR": "1"}, "ansi-dark", "ansi-dark"),
    ({"NO_COLOR": "1", "TEXTUAL_THEME": "nord"}, "ansi-dark", "ansi-dark"),
    ({"NO_COLOR": "1", "TEXTUAL_THEME": "ansi-light"}, "ansi-light", "ansi-light"),
])  # fmt: skip
def test_the_environment_chooses_the_theme(given: dict[str, str], theme: str, kept: str | None) -> None:
    environ = dict(given)
    assert prepare_environment(environ) == theme
    assert environ.get("TEXTUAL_THEME") == kept
    assert environ["TEXTUAL_ANIMATIONS"] == "none"


@pytest.mark.parametrize(("given", "few"), [
    ({"TERM": "screen-256color"}, True), ({"TERM": "tmux-256color", "COLORTERM": ""}, True),
    ({"TERM": "tmux-256color", "COLORTERM": "truecolor"}, False), ({"TERM": "linux"}, False), ({}, False),
])  # fmt: skip
def test_a_terminal_of_256_colours_is_known_by_its_name(given: dict[str, str], few: bool) -> None:
    assert has_256_colours(given) == few


@pytest.mark.parametrize(("setting", "given", "theme"), [
    ("contrast", {}, "jobdeck-contrast"), ("light", {"TERM": "linux"}, "jobdeck-light"),
    ("ansi-light", {}, "ansi-light"), ("light", {"TEXTUAL_THEME": "nord"}, "nord"),
    ("contrast", {"NO_COLOR": "1"}, "ansi-dark"), ("ansi-light", {"NO_COLOR": "1"}, "ansi-light"),
])  # fmt: skip
def test_the_setting_names_a_theme(setting: str, given: dict[str, str], theme: str) -> None:
    assert prepare_environment(dict(given), setting) == theme


@pytest.mark.slow
def test_keys_that_clash_are_a_sentence_before_anything_is_drawn(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[keys]\n"job.retry" = "C"\n', encoding="utf-8")
    with Terminal(JOBDECK, size=(160, 24), environ={**environ, "JOBDECK_CONFIG": str(config)}) as terminal:
        assert terminal.wait_for_end() == 1
        assert "[keys] gives C to job.retry and to job.cancel." in terminal.text
        assert b"\x1b" not in terminal.raw


@pytest.mark.slow
def test_a_moved_key_and_a_theme_of_the_configuration_file_are_used(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('JOBDECK_THEME = "contrast"\n[keys]\n"page.playbook" = "ctrl+b"\n', encoding="utf-8")
    with Terminal(JOBDECK, environ={**environ, "JOBDECK_CONFIG": str(config)}) as terminal:
        terminal.wait_for("? help")
        terminal.send("\x02")
        terminal.wait_for("Playbook")
        assert terminal.look_of("Playbook")[0] == "ffffff"
        terminal.send("q")
        terminal.wait_for("1 All")
        terminal.send("q")
        assert terminal.wait_for_end() == 0


def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *JOBDECK, *arguments], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "TERM": "xterm", **environ},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_without_a_terminal_the_status_is_printed_instead(environ: dict[str, str]) -> None:
    done = run(environ=environ)
    assert done.returncode == 0, done.stderr
    assert "verdict" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("term", ["dumb", ""])
def test_on_a_dumb_terminal_the_status_is_printed_instead(term: str, environ: dict[str, str]) -> None:
    with Terminal(JOBDECK, environ={**environ, "TERM": term}) as terminal:
        assert terminal.wait_for_end() == 0
        assert "verdict" in terminal.text
        assert b"\x1b" not in terminal.raw


@pytest.mark.slow
def test_a_command_does_not_import_textual(environ: dict[str, str]) -> None:
    code = "import sys, jobdeck.tui.__main__ as m; m.main(['types']); sys.exit('textual' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environ}, capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["--refresh", "soon"], 2, "--refresh"),
    (["--refresh", "0"], 2, "0.5 to 3600"),
    (["demo", "--database-url", "postgres://x"], 2, "its own database"),
])  # fmt: skip
def test_unusable_arguments_are_a_sentence_and_exit_code_2(
    arguments: list[str], code: int, sentence: str, environ: dict[str, str]
) -> None:
    with Terminal([*JOBDECK, *arguments], size=(120, 24), environ=environ) as terminal:
        assert terminal.wait_for_end() == code
        assert sentence in terminal.text
        assert b"\x1b" not in terminal.raw


@pytest.mark.slow
def test_a_wrong_setting_is_a_sentence_before_anything_is_drawn(environ: dict[str, str]) -> None:
    with Terminal(JOBDECK, size=(160, 24), environ={**environ, "JOBDECK_CONCURRENCY": "many"}) as terminal:
        assert terminal.wait_for_end() == 1
        assert "JOBDECK_CONCURRENCY" in terminal.text
        assert b"\x1b" not in terminal.raw


@pytest.mark.slow
def test_a_database_without_the_schema_ends_the_dashboard_with_the_sentence(
    empty_database_url: str, environ: dict[str, str]
) -> None:
    with Terminal(JOBDECK, size=(160, 24), environ={**environ, "DATABASE_URL": empty_database_url}) as terminal:
        assert terminal.wait_for_end() == 1
        assert "jobdeck init" in terminal.text


@pytest.mark.slow
def test_a_database_that_is_away_is_shown_as_disconnected(environ: dict[str, str]) -> None:
    with Terminal(JOBDECK, environ={**environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}) as terminal:
        terminal.wait_for("disconnected")
        terminal.send("q")
        assert terminal.wait_for_end() == 0


def test_whatever_goes_wrong_before_the_first_paint_is_a_sentence(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_arguments: object) -> object:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setenv("JOBDECK_STATE_DIR", environ["JOBDECK_STATE_DIR"])
    monkeypatch.setattr("jobdeck.tui.terminal.options.parse", broken)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert said.startswith("jobdeck: An unexpected RuntimeError")
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_help_of_the_command_line_tells_of_the_dashboards_options(environ: dict[str, str]) -> None:
    done = run("--help", environ=environ)
    assert done.returncode == 0
    assert "--read-only" in done.stdout


def _looks_different(terminal: Terminal, text: str, before: object) -> bool:
    return terminal.look_of(text) != before


@pytest.mark.slow
def test_the_dashboard_shows_a_real_queue_and_acts_on_it(environ: dict[str, str]) -> None:
    enqueued = run("enqueue", "game_platform_sync", "--payload", '{"dryRun": true}', "--at", "in 2h", environ=environ)
    assert enqueued.returncode == 0, enqueued.stderr
    with Terminal(JOBDECK, environ=environ) as terminal:
        terminal.wait_for("game_platform_sync")
        terminal.wait_for("DRY RUN")
        terminal.send("C")
        terminal.wait_for("Cancel 1 job")
        terminal.send("y")
        terminal.wait_for("cancelled")
        terminal.send("P")
        terminal.wait_for("Pause Automatic Processing")
        terminal.send("maintenance")
        terminal.wait_for("maintenance")
        for field in ("2h, 1d, tomorrow 9:00", "Pause  "):
            before = terminal.look_of(field)
            terminal.send("\r")
            terminal.wait_for(partial(_looks_different, terminal, field, before))
        terminal.send("\r")
        terminal.wait_for("PAUSED")
        terminal.send("q")
        assert terminal.wait_for_end() == 0
    said = run("status", environ=environ).stdout
    assert "maintenance" in said


@pytest.mark.slow
def test_a_login_after_the_steps_of_the_documentation_has_quick_sync_and_the_types_of_the_competition(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with use_plugins(plugin):
        types = registry.load().names
    monkeypatch.delenv("JOBDECK_PLUGINS")
    del environ["JOBDECK_PLUGINS"]
    login = shlex.quote(str(ROOT / "deploy" / "profile" / "jobdeck.sh"))
    script = f". {login}; exec {shlex.join([sys.executable, *JOBDECK])}"
    with Terminal(["-c", script], environ=environ, python=Path("/bin/sh")) as terminal:
        terminal.wait_for("The queue is empty.")
        terminal.send("n")
        terminal.wait_for("choose one")
        terminal.send("\r")
        for name in types:
            terminal.wait_for(f" {name} ")
        terminal.send("\x1b")
        terminal.wait_for("Create job")
        terminal.send("\x1b")
        terminal.wait_for("The queue is empty.")
        terminal.send("Q")
        for preset in plugin.presets:
            terminal.wait_for(f" {preset.key}  {preset.label} ")
        terminal.send("f")
        terminal.wait_for("waits for the first")
