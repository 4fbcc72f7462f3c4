"""Gives the package index the README without relative links, which lead nowhere there. Hatchling runs it at a build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

IMAGE = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]+\)\n\n?", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


class ReadmeForIndex(MetadataHookInterface):
    """Links lead to the address `Source` of `[project.urls]`; without one they name the file of the source archive."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Sets `readme`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        target = rf"[\1]({source}/blob/v{metadata['version']}/\2)" if source else r"\1 (`\2`)"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": LINK.sub(target, IMAGE.sub("", text)),
        }
