"""Type checkers accept the right uses of the public API, and refuse each of the wrong ones, line by line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.package.environments import Environment

USES: Final = Path(__file__).parent / "uses"


def by_mypy(name: str, python: Path, scratch: Path) -> set[int]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={scratch}", "--no-error-summary",
         "--python-executable", str(python), name],
        cwd=USES, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"^{name}:(\d+): error:", done.stdout, re.MULTILINE)}


def by_pyright(name: str, python: Path, scratch: Path) -> set[int]:
    program = Path(os.environ["PYRIGHT_ENVIRONMENT"]) / "bin" / "basedpyright"
    settings = scratch / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "standard", "include": [str(USES / name)]}), encoding="utf-8")
    done = subprocess.run(
        [str(program), "--outputjson", "--project", str(settings), "--pythonpath", str(python)],
        cwd=scratch, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    return {one["range"]["start"]["line"] + 1 for one in found["generalDiagnostics"] if one["severity"] == "error"}


def marked(name: str) -> set[int]:
    lines = (USES / name).read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


# scripts/package installs pyright, and names its environment.
CHECKERS = [by_mypy, by_pyright] if "PYRIGHT_ENVIRONMENT" in os.environ else [by_mypy]


@pytest.mark.installation
@pytest.mark.parametrize("judge", CHECKERS)
@pytest.mark.parametrize("name", ["right.py", "wrong.py"])
def test_a_type_checker_refuses_the_lines_that_are_wrong_and_no_other(
    judge: Callable[[str, Path, Path], set[int]], name: str, slim: Environment, tmp_path: Path
) -> None:
    assert judge(name, slim.python, tmp_path) == marked(name)
