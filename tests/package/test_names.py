"""Each module is loaded under one name: a second one would have a registry of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.package.environments import ROOT

PROBE = """
import atexit, json, sys
from jobdeck import job

@job("probe")
def probe(params, ctx): ...

def report():
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    sys.stderr.write(json.dumps(files))

atexit.register(report)
"""


def loaded_twice(files: Mapping[str, str | None]) -> dict[str, list[str]]:
    """The files of the project that are loaded under more than one name, and every module named `core.…` or `tui.…`."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, file in files.items():
        if file and Path(file).resolve().is_relative_to(ROOT) and ".venv" not in file:
            names[str(Path(file).resolve())].append(name)
    # `python -m core` loads core/__init__.py as `core` before it can say anything.
    short = {name: [name] for name in files if name.partition(".")[0] in {"core", "tui"} and "." in name}
    entrances = {str(ROOT / "core" / "__init__.py"), str(ROOT / "tui" / "__init__.py")}
    return short | {file: found for file, found in names.items() if len(found) > 1 and file not in entrances}


@pytest.mark.slow
def test_no_module_of_this_test_run_has_two_names() -> None:
    assert loaded_twice({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("program", ["core", "tui"])
def test_a_program_of_the_checkout_loads_each_module_once(program: str, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", program, "types", "--handlers", "probe"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "probe" in ran.stdout
    files = json.loads(ran.stderr)
    assert "jobdeck.core.registry" in files
    assert loaded_twice(files) == {}


@pytest.mark.parametrize("statement", ["from core.registry import job", "import tui.app"])
def test_a_handler_that_uses_the_short_name_is_refused(statement: str) -> None:
    ran = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"Import jobdeck.{statement.split()[1].split('.', maxsplit=1)[0]}" in ran.stderr
