"""The list of `scripts/mutations`: where a wrong change is made, and what is said of those that were tried."""

from pathlib import Path

import pytest

from bench.mutations.changes import Change, chosen, read_changes
from bench.mutations.run import ABSENT, MISSED, NOTICED, RED, copy_checkout, summary

LISTS = Path(__file__).parents[2] / "bench" / "mutations"


def change(*pairs: tuple[str, str], name: str = "one", known: bool = False) -> Change:
    return Change(name, pairs, ("*.sql", "parts/*.sql"), ("tests/test_it.py",), known)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "schema.sql").write_text("select a\n    from b;\n")
    (tmp_path / "parts" / "claim.sql").write_text("order by priority desc;\norder by\n    priority desc;\n")
    return tmp_path


def test_a_change_is_made_at_each_place_whatever_the_indentation(code: Path) -> None:
    edits = change(("order by priority desc;", "order by priority;")).edits(code)
    assert edits == {code / "parts" / "claim.sql": "order by priority;\norder by priority;\n"}
    assert change(("select a from b", r"select \1")).edits(code) == {code / "schema.sql": "select \\1;\n"}


def test_the_first_text_that_is_found_is_changed(code: Path) -> None:
    both = change(("of another time", "wrong"), ("select a", "select b"), ("order by", "limit"))
    assert list(both.edits(code)) == [code / "schema.sql"]


def test_a_change_whose_text_is_gone_does_not_apply(code: Path) -> None:
    assert change(("of another time", "wrong")).edits(code) == {}


@pytest.mark.parametrize(
    "entry",
    [
        'pairs = [["a", "a "]]\ntests = ["t"]',
        'pairs = [["a", "b"]]\ntests = []',
        'pairs = []\ntests = ["t"]',
        'pairs = [[" ", "b"]]\ntests = ["t"]',
    ],
)
def test_an_entry_that_says_nothing_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "list.toml").write_text(f'[[change]]\nname = "one"\n{entry}\n')
    with pytest.raises(ValueError, match="The change one has no text, changes nothing or names no test"):
        read_changes(tmp_path)


def test_a_name_is_used_once_and_an_unknown_one_refused(tmp_path: Path) -> None:
    one = '[[change]]\nname = "one"\npairs = [["a", "b"]]\ntests = ["t"]\n'
    (tmp_path / "list.toml").write_text(one + one)
    with pytest.raises(ValueError, match="Several changes have the same name: one"):
        read_changes(tmp_path)
    (tmp_path / "list.toml").write_text(one)
    with pytest.raises(ValueError, match="There is no change two"):
        chosen(read_changes(tmp_path), ["two"])
    assert [found.name for found in chosen(read_changes(tmp_path), ["one"])] == ["one"]


def test_the_lists_can_be_read_and_those_that_are_known_come_last() -> None:
    changes = read_changes(LISTS)
    known = [one.known for one in changes]
    assert known == sorted(known)
    assert known.count(False) >= 40


def test_the_summary_counts_known_ones_apart() -> None:
    own, known = change(("a", "b")), change(("a", "b"), known=True)
    assert summary([(own, NOTICED), (known, MISSED)]) == (
        "1 change: 1 noticed · known, 1 change: 1 NOT NOTICED.",
        True,
    )
    for verdict in (MISSED, ABSENT, RED):
        assert summary([(own, verdict)])[1] is False
    assert summary([(known, RED)])[1] is False


@pytest.mark.slow
def test_the_copy_has_the_files_as_they_are_and_links_as_links(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("this is no checkout of git")
    copy_checkout(root, tmp_path / "copy")
    assert (tmp_path / "copy" / "jobdeck" / "core").is_symlink()
    assert (tmp_path / "copy" / "tests" / "bench" / "test_mutations.py").read_text() == Path(__file__).read_text()
    assert not (tmp_path / "copy" / ".venv").exists()


@pytest.mark.slow
def test_every_change_of_the_lists_applies_to_the_code_of_today() -> None:
    assert [change.name for change in read_changes(LISTS) if not change.edits(LISTS.parents[1])] == []


def test_every_change_names_tests_that_are_there() -> None:
    root = LISTS.parents[1]
    named = {test.partition("::")[0] for change in read_changes(LISTS) for test in change.tests}
    assert [test for test in sorted(named) if not (root / test).exists()] == []
