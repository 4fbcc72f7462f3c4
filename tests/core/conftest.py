"""The command line under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.cli.support import Jobdeck, environment, runner

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def jobdeck(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    """Runs commands against the test's database."""
    environment(monkeypatch, tmp_path, database_url)
    return runner(capsys)
