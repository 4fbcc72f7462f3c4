"""A second series alike in Create Job: the form says which one is there, and a dedupe key allows both."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from jobdeck.core.settings import Settings
from tests.core.cli.support import environment
from tests.support.queue import Connection
from tests.tui.live import live


@pytest.mark.slow
async def test_a_copy_of_a_series_is_refused_in_the_form_unless_it_differs(
    conn: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(monkeypatch, tmp_path, database_url)
    settings = Settings(database_url=SecretStr(database_url), state_dir=tmp_path, handlers="tests.core.cli.handlers")
    new = NewJob("cli_echo", {"message": "two"}, recurrence_interval_minutes=90)
    first = producer.enqueue(conn, new, actor="test").job_id
    async with live(settings, "N", "ctrl+s") as desk:
        text = "".join(desk.screen_text().replace("│", " ").split())
        assert f"Job{first}isaseriesofcli_echo" in text
        assert len(conn.rows("SELECT id FROM job_queue")) == 1
        await desk.press("tab", "backspace", *"mended", "ctrl+s")
        assert len(conn.rows("SELECT id FROM job_queue")) == 2
