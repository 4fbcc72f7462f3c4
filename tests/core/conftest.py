"""The command line under test, and a handler that tests hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.cli.support import Jobdeck, environment, runner
from tests.support.working import Held


@pytest.fixture
def jobdeck(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    """Runs commands against the test's database."""
    environment(monkeypatch, tmp_path, database_url)
    return runner(capsys)


@pytest.fixture
def held() -> Iterator[Held]:
    """A handler that is let go at the end of the test."""
    held = Held()
    yield held
    held.let_go()
