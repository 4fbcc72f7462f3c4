"""The pages of the documents that are made from the code: `python -m tests.package.pages` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.package import configuration, reference

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGES: Final[dict[str, Callable[[], str]]] = {
    "reference.md": reference.page,
    "configuration.md": configuration.queue,
    "competition/configuration.md": configuration.competition,
}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
