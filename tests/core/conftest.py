"""The command line under test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.cli.support import Jobdeck, environment, runner


@pytest.fixture
def jobdeck(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Jobdeck:
    """Runs commands against the test's database."""
    environment(monkeypatch, tmp_path, database_url)
    return runner(capsys)
