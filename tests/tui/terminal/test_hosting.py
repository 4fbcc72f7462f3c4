"""What an error becomes while the terminal is there, and once it is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from jobdeck.tui.terminal import hosting


class OnTerminal(hosting.Ending):
    """An app that does not run, and takes itself for one with a terminal."""

    @property
    def is_headless(self) -> bool:
        return False


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The two ends of a terminal; the program has the second one as its standard input."""
    ends = list(os.openpty())
    monkeypatch.setattr(hosting, "INPUT", ends[1])
    monkeypatch.setattr(hosting, "OUTPUTS", ())
    yield ends
    for end in ends:
        os.close(end)


async def test_an_error_of_the_program_is_said_and_an_error_of_a_terminal_that_is_gone_is_its_hang_up(
    terminal: list[int],
) -> None:
    there, gone, drawn = OnTerminal(), OnTerminal(), OnTerminal()
    there.panic()
    assert (there.return_code, there.failure is None) == (1, False)
    os.close(terminal.pop(0))
    gone.panic()
    drawn._handle_exception(OSError("written to a terminal that is gone"))
    assert [(app.return_code, app.failure) for app in (gone, drawn)] == [(129, None), (129, None)]
