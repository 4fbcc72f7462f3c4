"""The dashboard over a real queue, driven by keys: for tests of whole ways from a key press to the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobdeck.core.settings import Settings
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.backend.live import LiveBackend
from jobdeck.tui.deck import Options
from tests.tui.fake import at_once
from tests.tui.support import LARGE
from tests.tui.support import Desk as OpenDesk


class Desk(OpenDesk):
    """A running dashboard over a real queue."""

    @property
    def twin(self) -> str:
        """The command that the last toast names."""
        text = self.toasts[-1]
        return text[text.index("jobdeck ") :].split("\n")[0]

    async def tab_to(self, widget_id: str) -> None:
        """Goes to a field by tab."""
        for _ in range(40):
            if self.app.focused is not None and self.app.focused.id == widget_id:
                return
            await self.press("tab")
        raise AssertionError(f"{widget_id} cannot be reached")


@asynccontextmanager
async def live(settings: Settings, *keys: str, size: tuple[int, int] = LARGE, **options: object) -> AsyncIterator[Desk]:
    """Runs it, and presses these keys. It reads when it is poked only, so that nothing moves between two keys."""
    backend = LiveBackend(settings)
    app = JobdeckApp(
        lambda: backend,
        Options(ticking=False, interval=3600.0, **options),  # type: ignore[arg-type]
        background=at_once,
    )
    try:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            desk = Desk(app, pilot)
            await desk.press(*keys)
            yield desk
    finally:
        backend.close()
