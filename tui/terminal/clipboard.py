"""Copies text in a way that works over SSH: with OSC 52, and inside tmux also to its buffer."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from jobdeck.tui.format import plural

if TYPE_CHECKING:
    from textual.app import App

LONGEST: Final = 55_000
"""Maximum size in bytes. As base64 it is about 74 kB, which terminals accept in one OSC 52 sequence."""


def is_copied(text: str) -> bool:
    """Whether the text is short enough to copy."""
    return len(text.encode()) <= LONGEST


def copy(app: App[Any], text: str) -> str:
    """Copies a text. Returns a sentence for the user."""
    if not is_copied(text):
        return f"Not copied: {len(text)} characters exceed the limit of terminals ({LONGEST} bytes)."
    app.copy_to_clipboard(text)
    where = "tmux buffer + OSC 52" if _to_tmux(text) else "OSC 52"
    return f"Copied {plural(len(text), 'character')} ({where})."


def _to_tmux(text: str) -> bool:
    tmux = shutil.which("tmux") if os.environ.get("TMUX") else None
    if tmux is None:
        return False
    try:
        done = subprocess.run(
            [tmux, "load-buffer", "-w", "-"], input=text.encode(), capture_output=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
