"""The rows of a table of cases: `./test` tries a few of each, and `./test --long` the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.rows import quick_places
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
TABLES = """
import pytest

@pytest.fixture
def postgres():
    pass

@pytest.fixture
def conn(postgres):
    pass

@pytest.mark.parametrize("row", range(7))
def test_long_table(row, conn):
    pass

class TestShort:
    @pytest.mark.parametrize("row", ["a", "b"])
    def test_table(self, row, conn):
        pass

@pytest.mark.parametrize("row", range(4))
def test_without_a_database(row):
    pass

def test_alone(conn):
    pass
"""


def collected(folder: Path, marks: str) -> list[str]:
    (folder / "test_it.py").write_text(TABLES)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: as in pyproject.toml\n")
    options = ["-p", "tests.support.rows", "--collect-only", "-q", "-m", marks]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    return [line.partition("::")[2] for line in ran.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_a_quick_run_has_three_rows_with_a_database_of_a_long_table_and_a_long_run_has_the_others(
    tmp_path: Path,
) -> None:
    quick = [f"test_long_table[{row}]" for row in (0, 3, 6)]
    short = ["TestShort::test_table[a]", "TestShort::test_table[b]"]
    cheap = [f"test_without_a_database[{row}]" for row in range(4)]
    assert collected(tmp_path, "not slow") == [*quick, *short, *cheap, "test_alone"]
    assert collected(tmp_path, "slow") == [f"test_long_table[{row}]" for row in (1, 2, 4, 5)]


@pytest.mark.parametrize(("rows", "places"), [(1, {0}), (3, {0, 1, 2}), (4, {0, 1, 3}), (100, {0, 49, 99})])
def test_the_first_row_the_last_and_the_one_between_are_quick(rows: int, places: set[int]) -> None:
    assert quick_places(rows) == places
