"""A shell completes commands, options, task types, filter keys and statuses, tried in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.cli.support import HANDLERS, ROOT, Jobdeck
from tests.support.waiting import PATIENCE

BASH = """
source "$SCRIPT"
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "${1//:/ : }"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_jobdeck_completion jobdeck 2>&1
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shell(tmp_path: Path, jobdeck: Jobdeck) -> dict[str, str]:
    """The environment of a shell that finds this Jobdeck, and the script of each shell."""
    program = tmp_path / "jobdeck"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jobdeck.tui "$@"\n')
    program.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(jobdeck("completion", "bash").out)
    changes = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "SCRIPT": str(script)}
    return {**os.environ, **changes, "JOBDECK_HANDLERS": HANDLERS}


def completed(shell: dict[str, str], line: str) -> list[str]:
    """What a real bash offers at the end of the line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash is installed")
    ran = subprocess.run(
        [bash, "--norc", "-c", BASH.replace("compopt", ": compopt"), "bash", line],
        env=shell, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    lines = [text for text in ran.stdout.splitlines() if text and "compopt: not currently" not in text]
    assert ran.returncode == 0, ran.stderr
    return lines


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("jobdeck stat", ["status"]),
        ("jobdeck bulk s", ["show", "stop"]),
        ("jobdeck jobs --sta", ["--status"]),
        ("jobdeck jobs --status f", ["failed"]),
        ("jobdeck enqueue cli_e", ["cli_echo"]),
        ("jobdeck pause --type cli_r", ["cli_refuse"]),
        ("jobdeck jobs --filter sta", ["status:"]),
        ("jobdeck jobs --filter status:fa", ["failed"]),
        ("jobdeck jobs --filter type:cli_r", ["cli_refuse"]),
        ("jobdeck jobs --filter 'status:failed type:cli_r", ["status:failed type:cli_refuse"]),
        ("jobdeck completion f", ["fish"]),
        ("jobdeck xyzzy", []),
    ],
)
@pytest.mark.slow
def test_bash_completes_at_the_end_of_a_line(shell: dict[str, str], line: str, offered: list[str]) -> None:
    assert completed(shell, line) == offered


@pytest.mark.slow
def test_bash_completes_the_names_of_saved_filters(
    shell: dict[str, str], jobdeck: Jobdeck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBDECK_STATE_DIR", str(tmp_path))
    for name in ("late", "stuck", "lost"):
        jobdeck("filter", "save", name, "age>2h")
    assert completed({**shell, "JOBDECK_STATE_DIR": str(tmp_path)}, "jobdeck jobs --filter @l") == ["@late", "@lost"]


@pytest.mark.slow
def test_bash_offers_all_commands_behind_the_program_and_types_with_a_broken_setting_are_none(
    shell: dict[str, str],
) -> None:
    assert {"jobs", "retry", "completion", "bulk"} <= set(completed(shell, "jobdeck "))
    assert completed({**shell, "JOBDECK_HANDLERS": "no_such_module"}, "jobdeck enqueue ") == []


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_this_program_and_parses_where_the_shell_is_here(
    jobdeck: Jobdeck, tmp_path: Path, name: str
) -> None:
    script = jobdeck("completion", name).out
    assert "_JOBDECK_COMPLETE" in script
    assert f"{name}_complete" in script
    found = shutil.which(name)
    if found is not None:
        path = tmp_path / "script"
        path.write_text(script)
        assert subprocess.run([found, "-n", str(path)], check=False, timeout=PATIENCE).returncode == 0


def test_a_shell_without_a_script_is_refused_with_those_that_have_one(jobdeck: Jobdeck) -> None:
    jobdeck("completion", "zhs").refused(2, 'did you mean "zsh"?', "bash, zsh, fish")
