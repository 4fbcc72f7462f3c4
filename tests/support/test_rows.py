"""The rows of a table of cases: `./test` tries a few of each, `./test --long` more, and `./test --release` all."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from tests.support.rows import LONG_ROWS, long_places, quick_places
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

@pytest.mark.slow
@pytest.mark.every_row
@pytest.mark.parametrize("row", range(9))
def test_whole_table(row, conn):
    pass

def test_alone(conn):
    pass
"""


def collected(folder: Path, marks: str) -> list[str]:
    (folder / "test_it.py").write_text(TABLES)
    (folder / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n slow: 1\n release: 2\n server: 3\n installation: 4\n every_row: 5\n"
    )
    options = ["-p", "tests.support.rows", "--collect-only", "-q", "-m", marks]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={folder}", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    return [line.partition("::")[2] for line in ran.stdout.splitlines() if "::" in line]


def expressions() -> dict[str, str]:
    """What each command of `./test` selects: the expression of its marks, by its option."""
    script = (ROOT / "test").read_text()
    (long,) = re.findall(r'^long="(.+)"$', script, re.MULTILINE)
    found = re.findall(r'-m "(.+?)"', script)
    return dict(
        zip(
            ("--long", "--release", "--server", "--published", ""),
            (one.replace("$long", long) for one in found),
            strict=True,
        )
    )


@pytest.mark.slow
def test_a_quick_run_has_three_rows_with_a_database_of_a_long_table_and_a_long_run_has_the_others(
    tmp_path: Path,
) -> None:
    quick = [f"test_long_table[{row}]" for row in (0, 3, 6)]
    short = ["TestShort::test_table[a]", "TestShort::test_table[b]"]
    cheap = [f"test_without_a_database[{row}]" for row in range(4)]
    assert collected(tmp_path, "not slow") == [*quick, *short, *cheap, "test_alone"]
    others = [f"test_long_table[{row}]" for row in (1, 2, 4, 5)]
    whole = [f"test_whole_table[{row}]" for row in range(9)]
    assert collected(tmp_path, "slow") == [*others, *whole]
    tried = collected(tmp_path, "slow and not release")
    assert tried == [row for row in others if row not in collected(tmp_path, "release")] + whole
    assert len(whole) < len(tried) < len(others) + len(whole)
    server = ["test_long_table[0]", "TestShort::test_table[a]", "test_whole_table[0]", "test_alone"]
    assert collected(tmp_path, "server") == server


def test_ci_tries_every_function_and_a_release_every_row() -> None:
    """A row is left to a release for its place alone, and the first, at least, is never left to it."""
    wanted = {option: Expression.compile(text) for option, text in expressions().items()}

    def selects(option: str, marks: set[str]) -> bool:
        return wanted[option].evaluate(lambda name, /, **_: name in marks)

    given = ("slow", "installation", "thorough", "hypothesis", "server")
    for size in range(len(given) + 1):
        for marks in map(set, combinations(given, size)):
            assert selects("", marks) or selects("--long", marks), marks
            left = marks | {"release"}
            assert selects("", left) or selects("--release", left), left
    for name in ("a", "b", "c", "d"):
        assert 0 in long_places(name, 100)
    by_hand = [path for path in ROOT.joinpath("tests").rglob("*.py") if "mark.release" in path.read_text()]
    assert {path.name for path in by_hand} <= {"rows.py", "test_rows.py"}


def test_tests_of_the_same_rows_try_all_of_them_together() -> None:
    tried = [long_places(f"test_{number}", 100) for number in range(20)]
    assert set.union(*tried) == set(range(100))
    assert all(len(places) <= 100 / LONG_ROWS + 3 for places in tried)
    assert tried == [long_places(f"test_{number}", 100) for number in range(20)]


@pytest.mark.parametrize(("rows", "places"), [(1, {0}), (3, {0, 1, 2}), (4, {0, 1, 3}), (100, {0, 49, 99})])
def test_the_first_row_the_last_and_the_one_between_are_quick(rows: int, places: set[int]) -> None:
    assert quick_places(rows) == places
