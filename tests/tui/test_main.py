"""The program's entry, as a shell sees it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from jobdeck.core.cli import app
from jobdeck.tui.__main__ import main

if TYPE_CHECKING:
    import pytest


def test_a_reader_of_the_help_who_has_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "main", lambda _arguments: 0)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["--help"]) == 0
        monkeypatch.undo()
