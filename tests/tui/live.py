"""The dashboard over a real queue, driven by keys: for tests of whole ways from a key press to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from jobdeck.core.errors import JobdeckError
from jobdeck.core.settings import Settings
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.deck import Options
from tests.tui.support import LARGE


def at_once(work: Callable[[], Any], done: Callable[[Any], None]) -> None:
    """Background work done before the call returns, its errors handed on."""
    try:
        answer = work()
    except JobdeckError as error:
        answer = error
    done(answer)


class Desk:
    """A running dashboard over a real queue."""

    def __init__(self, app: JobdeckApp, pilot: Pilot[int]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def here(self) -> str:
        return type(self.app.screen).__name__

    @property
    def toasts(self) -> list[str]:
        return [toast.message for toast in self.app._notifications]

    @property
    def twin(self) -> str:
        """The command that the last toast names."""
        text = self.toasts[-1]
        return text[text.index("jobdeck ") :].split("\n")[0]

    def screen_text(self) -> str:
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text[:width].rstrip() for strip in lines[:height])

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()

    async def tab_to(self, widget_id: str) -> None:
        """Goes to a field by tab."""
        for _ in range(40):
            if self.app.focused is not None and self.app.focused.id == widget_id:
                return
            await self.press("tab")
        raise AssertionError(f"{widget_id} cannot be reached")


@asynccontextmanager
async def live(settings: Settings, *, size: tuple[int, int] = LARGE, **options: object) -> AsyncIterator[Desk]:
    """Runs it. It reads when it is poked only, so that nothing moves between two keys."""
    backend = LiveBackend(settings)
    app = JobdeckApp(
        lambda: backend,
        Options(ticking=False, interval=3600.0, **options),  # type: ignore[arg-type]
        background=at_once,
    )
    try:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            yield Desk(app, pilot)
    finally:
        backend.close()
