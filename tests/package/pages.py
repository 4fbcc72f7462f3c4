"""The files that are made from the code: `python -m tests.package.pages` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.package import configuration, reference

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/reference.md": reference.page,
    "docs/configuration.md": configuration.queue,
    "docs/competition/configuration.md": configuration.competition,
    "deploy/jobdeck.env.example": configuration.services,
}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (ROOT / name).write_text(make(), encoding="utf-8")
