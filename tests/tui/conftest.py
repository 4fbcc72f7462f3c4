"""The dashboard under test reads a playbook of its own, so that pictures do not change with the documents."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from jobdeck.tui.text import playbook as text_playbook
from tests.tui import quick

PLAYBOOK = """# Operations

How to watch, steer and repair the queue. `?` lists the keys, and **nothing** here is [elsewhere](x.md).

## Daily monitoring

1. `jobdeck status`: processing is on, a worker is alive.
2. `jobdeck health` (`h`): the verdict with its evidence, then the history of triggers with their HTTP status,
   and gaps drawn as gaps.

```sh
jobdeck status
jobdeck retry --filter "status:failed type:game_platform_sync error:timeout" --dry-run --limit 1000 --json
```

| action | key | command | pending | running |
|---|---|---|---|---|
| Retry | `R` | `jobdeck retry ID` | due now | refused |
| Cancel | `C` | `jobdeck cancel ID` | at once | its handler is asked to stop as soon as it looks |

| a | b |
|---|---|
| 1 | 2 |

## When a type fails

### game_platform_profile_refresh

Refreshes names and states of accounts; it reads only. Retry when the vendor answers again.

### game_platform_totals_sweep

Adds up scores. A retry is harmless.

## What an error's kind means

- `game_platform_rate_limited`: too many requests. It goes on by itself.
- `messaging_config`: a setting is missing. Correct it,
  then retry.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pictures of screens are judged at the version of Textual in uv.lock: another one draws some of them otherwise."""
    with (Path(__file__).parents[2] / "uv.lock").open("rb") as file:
        packages = tomllib.load(file)["package"]
    locked = next(package["version"] for package in packages if package["name"] == "textual")
    if version("textual") == locked:
        return
    skip = pytest.mark.skip(reason=f"pictures are judged with textual {locked}")
    for item in items:
        if "snap_compare" in getattr(item, "fixturenames", ()) or item.path.name == "test_picture.py":
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def playbook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_playbook, "source", lambda: PLAYBOOK)


@pytest.fixture(autouse=True, scope="session")
def quick_textual() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quick.install(patch)
        yield
