"""The limit of time of each test: one that hangs fails by name, and says where its threads are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import THOROUGH
from tests.support.limits import LONG_SECONDS, PROPERTY_SECONDS, SECONDS, limit_of
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
HANGS = """
import threading, pytest

def test_before():
    print("before")

@pytest.mark.limit(0.5)
@pytest.mark.parametrize("part", ["one"])
def test_hangs(part):
    waits = threading.Thread(target=threading.Event().wait, name="waits", daemon=True)
    waits.start()
    waits.join()

@pytest.mark.parametrize("part", range(4))
def test_after(part):
    pass
"""


def run_hanging(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(HANGS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = ["-m", "pytest", "-p", "tests.support.limits", *options, f"--rootdir={folder}", str(folder)]
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.slow  # pytest-xdist gives the process that has ended 10 s to end
def test_a_test_that_hangs_fails_by_name_and_the_others_go_on_in_another_process(tmp_path: Path) -> None:
    ran = run_hanging(tmp_path, "-n", "1")
    assert ran.returncode == 1
    assert "crashed while running 'test_it.py::test_hangs[one]'" in ran.stdout
    assert "1 failed, 5 passed" in ran.stdout
    assert "FAILED test_it.py::test_hangs[one]: it did not end within 0.5 s. Its threads:" in ran.stderr
    assert '/test_it.py", line 12 in test_hangs' in ran.stderr
    assert 'threading.py", line' in ran.stderr, "the thread that it waits for"


@pytest.mark.slow
def test_without_processes_the_run_ends_with_the_name_of_the_test_that_hangs(tmp_path: Path) -> None:
    ran = run_hanging(tmp_path)
    assert ran.returncode == 1
    assert "FAILED test_it.py::test_hangs[one]: it did not end within 0.5 s." in ran.stderr
    assert '/test_it.py", line 12 in test_hangs' in ran.stderr


@pytest.mark.parametrize(
    ("marks", "seconds"),
    [
        ((), SECONDS),
        ((pytest.mark.slow,), LONG_SECONDS),
        ((pytest.mark.installation,), LONG_SECONDS),
        ((pytest.mark.thorough,), PROPERTY_SECONDS if THOROUGH else LONG_SECONDS),
        ((pytest.mark.slow, pytest.mark.limit(90)), 90),
    ],
)
def test_the_limit_is_that_of_the_marker_or_of_the_kind_of_test(
    marks: tuple[pytest.MarkDecorator, ...], seconds: float, request: pytest.FixtureRequest
) -> None:
    for mark in marks:
        request.node.add_marker(mark)
    assert limit_of(request.node) == seconds
