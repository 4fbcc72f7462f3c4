"""The path and the content of the configuration file."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from jobdeck.core.errors import ConfigurationError


def path() -> Path:
    """`JOBDECK_CONFIG`, else `jobdeck/config.toml` in the XDG configuration folder."""
    named = os.environ.get("JOBDECK_CONFIG")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "jobdeck" / "config.toml"


def content() -> dict[str, Any]:
    """The parsed file; empty if there is none.

    Raises:
        ConfigurationError: it is not TOML, or `JOBDECK_CONFIG` names a file that cannot be read.
    """
    file = path()
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if os.environ.get("JOBDECK_CONFIG"):
            raise ConfigurationError(
                f"JOBDECK_CONFIG names {file}, which cannot be read ({error.strerror})."
            ) from error
        return {}
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The configuration file {file} is not valid TOML: {error}.") from error
