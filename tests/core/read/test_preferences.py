"""Saved filters and columns: a file of the person's, replaced as a whole, and refused if it cannot be understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.model import Filter, Status
from jobdeck.core.read.filters import format_filter, parse_filter
from jobdeck.core.read.operators.preferences import Preferences, preferences_of
from jobdeck.core.settings import Settings
from tests.support.waiting import together


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "preferences.json"


@pytest.mark.parametrize("kept", [True, False])
def test_a_saved_filter_is_found_by_its_name(path: Path, kept: bool) -> None:
    mine = Preferences(path if kept else None)
    mine.save_filter("Stuck-1", " status:failed type:push ")
    mine.save_filter("late", "age>2h")
    other = Preferences(path) if kept else mine
    assert other.filters() == {"late": "age>2h", "stuck-1": "status:failed type:push"}
    assert other.filter("@stuck-1") == Filter(status=Status.FAILED, task_type="push")
    assert other.filter("type:push") == Filter(task_type="push")
    mine.save_filter("late", "age>3h")
    mine.delete_filter("@LATE")
    assert list(other.filters()) == ["stuck-1"]


def test_an_account_without_a_home_folder_is_told_when_it_saves_something(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("os.geteuid", lambda: 12345)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    mine = preferences_of(Settings(database_url=SecretStr("postgresql://somewhere/db")))
    with pytest.raises(Refused, match=r"no home folder.*JOBDECK_STATE_DIR"):
        mine.save_filter("late", "age>2h")
    with pytest.raises(Refused, match="no home folder"):
        mine.columns("all")


@pytest.mark.parametrize("kept", [True, False])
def test_the_details_are_beside_the_list_until_the_person_hides_them(path: Path, kept: bool) -> None:
    mine = Preferences(path if kept else None)
    assert mine.beside()
    mine.show_beside(False)
    mine.choose_columns("all", ["id"])
    assert not (Preferences(path) if kept else mine).beside()
    mine.show_beside(True)
    assert (Preferences(path) if kept else mine).beside()


def test_the_file_is_the_persons_alone_and_no_other_is_left(path: Path) -> None:
    Preferences(path).save_filter("late", "age>2h")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["preferences.json"]
    assert json.loads(path.read_text())["version"] == 1


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("", "age>2h", "letters"), ("a b", "age>2h", "letters"), ("a" * 41, "age>2h", "letters"),
        ("@late", "age>2h", "letters"), ("late", "statu:failed", "Unknown filter key"), ("late", " ", "empty"),
        ("late", "@other", "name of another"),
    ],
)  # fmt: skip
def test_what_is_no_filter_is_not_saved(path: Path, name: str, words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Preferences(path).save_filter(name, words)
    assert not path.exists()


def test_an_unknown_name_is_said_with_the_nearest_one(path: Path) -> None:
    mine = Preferences(path)
    mine.save_filter("stuck", "age>2h")
    for ask in (lambda: mine.filter("@stock"), lambda: mine.delete_filter("stock")):
        with pytest.raises(UsageError, match='No filter is saved as "stock"; did you mean "stuck"'):
            ask()


def test_a_saved_filter_that_no_longer_parses_says_so_in_one_sentence(path: Path) -> None:
    mine = Preferences(path)
    mine.save_filter("stuck", "age>2h")
    path.write_text(path.read_text().replace("age>2h", "coach:5 status:nope"))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"The saved filter stuck can no longer be read: .*delete stuck"):
        mine.filter("@stuck")
    assert path.read_bytes() == before
    assert mine.filters() == {"stuck": "coach:5 status:nope"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', "[" * 100_000, '{"version": 1' + " " * 1_000_001])
@pytest.mark.parametrize(
    "do",
    [
        lambda mine: mine.filters(), lambda mine: mine.columns("all"), lambda mine: mine.save_filter("a", "age>2h"),
        lambda mine: mine.choose_columns("all", ["id"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_understood_is_named_and_stays(
    path: Path, content: str, do: Callable[[Preferences], object]
) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(Refused, match=r"preferences\.json, and .* Nothing was changed"):
        do(Preferences(path))
    assert path.read_text() == content


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    target = tmp_path / "elsewhere"
    target.write_text('{"version": 1}')
    path.symlink_to(target)
    with pytest.raises(Refused, match="Nothing was changed"):
        Preferences(path).save_filter("a", "age>2h")
    assert target.read_text() == '{"version": 1}'


def test_what_a_person_wrote_into_the_file_and_what_is_no_text_is_left_out(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(
        '{"version": 1, "filters": {"a": 5, "b c": "x", "ok": "age>2h"}, "columns": {"all": "id", "failed": ["id", 5]}}'
    )
    mine = Preferences(path)
    assert mine.filters() == {"ok": "age>2h"}
    assert (mine.columns("all"), mine.columns("failed")) == ((), ("id",))


def test_columns_are_kept_for_each_tab(path: Path) -> None:
    mine = Preferences(path)
    mine.save_filter("late", "age>2h")
    mine.choose_columns("failed", ("id", "error"))
    mine.choose_columns("all", ("id",))
    mine.choose_columns("all", ())
    other = Preferences(path)
    assert (other.columns("failed"), other.columns("all")) == (("id", "error"), ())
    assert list(other.filters()) == ["late"]


def test_programs_that_save_at_once_lose_nothing(path: Path) -> None:
    def save(first: int) -> None:
        for number in range(first, first + 10):
            Preferences(path).save_filter(f"f{number}", f"attempts>={number + 1}")

    together(*(partial(save, at) for at in (0, 10, 20)))
    assert len(Preferences(path).filters()) == 30


def test_a_searched_text_that_begins_like_a_name_is_written_in_quotes() -> None:
    for text in ("@late", "@late ones"):
        assert format_filter(parse_filter(f'"{text}"')) == f'"{text}"'
