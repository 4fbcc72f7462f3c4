"""What was done, in words, for the command line and the dashboard alike: in a shift, and in one cycle."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from jobdeck.core.model import CycleResult
from jobdeck.core.plugins import load_plugins

if TYPE_CHECKING:
    from jobdeck.core.read.report_types import Digest

PAST = {
    "retry": "retried", "cancel": "cancelled", "delete": "deleted", "restore": "restored", "edit": "edited",
    "pause": "paused", "resume": "resumed", "run again": "ran again", "cleanup": "cleaned up", "reveal": "revealed",
}  # fmt: skip


def finished_words(digest: Digest) -> str:
    """How many runs came to what; from when they are counted where that is not the whole shift."""
    parts = [f"{digest.succeeded} succeeded"]
    parts += [f"{digest.partial} partial"] if digest.partial else []
    parts += [f"{digest.continued} to be continued"] if digest.continued else []
    told = ", ".join([*parts, f"{digest.troubled} to be tried again", f"{digest.failed} failed for good"])
    if digest.counted_since > digest.since:
        return f"{told} (counted since {digest.counted_since:%m-%d %H:%M}Z)"
    return told


def trigger_words(digest: Digest) -> str:
    """How many cycles and windows of each source there were, and how many of them went wrong."""
    parts = [
        f"{one.count} {one.source}{f' ({one.troubled} went wrong)' if one.troubled else ''}" for one in digest.triggers
    ]
    return ", ".join(parts) or "none came"


def action_words(digest: Digest) -> list[tuple[str, str]]:
    """What each actor did: `retried 12, paused 1`."""
    past = PAST | {action: words for plugin in load_plugins() for action, words in plugin.wording.items()}
    return [
        (actor, ", ".join(f"{past.get(one.action, one.action)} {one.count}" for one in done))
        for actor, done in groupby(digest.actions, key=lambda one: one.actor)
    ]


def cycle_words(result: CycleResult) -> str:
    """How many jobs a cycle ran and what became of them; of one that a pause kept from running, why."""
    counted = f"processed {result.processed}: {result.succeeded} succeeded, {result.failed} failed"
    if result.status != "paused":
        return counted
    reason = "no reason given" if result.message in {"", CycleResult.PAUSED} else result.message
    began = f"{counted}; then processing was" if result.processed else "Nothing ran: processing is"
    return f"{began} paused ({reason})."
