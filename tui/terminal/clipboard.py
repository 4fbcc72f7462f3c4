"""Copying that works over SSH: tmux's buffer inside tmux, and OSC 52 always."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from jobdeck.tui.format import plural

if TYPE_CHECKING:
    from textual.app import App

LONGEST: Final = 55_000
"""Bytes; as base64 about 74 kB, which is what terminals take in one OSC 52."""


def is_copied(text: str) -> bool:
    """Whether a terminal takes so much."""
    return len(text.encode()) <= LONGEST


def copy(app: App[Any], text: str) -> str:
    """Copies the text and says where it went, or why not."""
    if not is_copied(text):
        return f"Not copied: {len(text)} characters are more than a terminal takes ({LONGEST} bytes)."
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
