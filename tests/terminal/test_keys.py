"""Keys on a real terminal: `esc` and the key after it both have their effect, however soon it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.terminal.test_terminal import settled

if TYPE_CHECKING:
    from tests.terminal.pty_terminal import Terminal

pytestmark = pytest.mark.slow

QUESTION = "Cancel 1 job"


def send_apart(terminal: Terminal, keys: str, gap: float) -> None:
    """Sends all bytes at once, or each one some time after the one before it."""
    for piece in keys if gap else [keys]:
        terminal.send(piece)
        terminal.read(gap)


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.3])
def test_escape_and_a_key_close_a_dialog_and_act_on_the_list(gap: float) -> None:
    with settled("still") as running:
        for place in (2, 3):
            running.send("C")
            running.wait_for(QUESTION)
            send_apart(running, "\x1bj", gap)
            running.wait_for(lambda: QUESTION not in running.text)
            running.wait_for(f" {place}/")


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_an_arrow_key_of_a_slow_line_moves_the_cursor_and_closes_no_dialog(gap: float) -> None:
    with settled("still") as running:
        send_apart(running, "\x1b[B" * 3, gap)
        running.wait_for(" 4/")
        running.send("P")
        running.wait_for("Reason (optional)")
        send_apart(running, "\x1b[Byes", gap)
        running.wait_for("yes")
        assert "Reason (optional)" in running.text
