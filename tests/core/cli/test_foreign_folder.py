"""Programs that start in a folder that others can write to run no code of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobdeck.core.cli.commands.run.serve import dashboard
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[3]


def of_run() -> list[str]:
    """The command at the end of `./run`."""
    last = shlex.split((ROOT / "run").read_text(encoding="utf-8").splitlines()[-1])
    return [sys.executable if part == "$python" else part for part in last if part not in {"exec", "$@"}]


@pytest.mark.slow
@pytest.mark.parametrize("command", [of_run(), dashboard({"refresh": 1, "read_only": False})[:-2]])
def test_a_file_with_the_name_of_a_package_is_not_run(tmp_path: Path, command: list[str]) -> None:
    for name in ("click", "pydantic", "psycopg", "textual", "tui", "jobdeck", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("print('of the folder')\nraise SystemExit(9)\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [*(part for part in command if part != "--mouse"), "health", "--help"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert "of the folder" not in ran.stdout
    assert ran.returncode == 0, ran.stderr
