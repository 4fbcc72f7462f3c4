"""Sentences about a shift and about one cycle, for the commands and the dashboard."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from jobdeck.core.plugins import load_plugins
from jobdeck.core.worker.oneshot import CycleResult

if TYPE_CHECKING:
    from jobdeck.core.read.report_types import Digest

PAST = {
    "retry": "retried", "cancel": "cancelled", "delete": "deleted", "restore": "restored", "edit": "edited",
    "pause": "paused", "resume": "resumed", "run again": "ran again", "cleanup": "cleaned up", "reveal": "revealed",
    "note": "left notes", "acknowledge": "acknowledged notes", "mute errors": "muted errors",
    "unmute errors": "unmuted errors",
}  # fmt: skip


def finished_words(digest: Digest) -> str:
    """The number of runs by outcome, with the start of the count when it does not cover the whole shift."""
    parts = [f"{digest.succeeded:,} succeeded"]
    parts += [f"{digest.partial:,} partial"] if digest.partial else []
    parts += [f"{digest.continued:,} to be continued"] if digest.continued else []
    text = ", ".join([*parts, f"{digest.troubled:,} awaiting retry", f"{digest.failed:,} failed permanently"])
    if digest.counted_since > digest.since:
        return f"{text} (counted since {digest.counted_since:%m-%d %H:%M}Z)"
    return text


def trigger_words(digest: Digest) -> str:
    """The number of cycles and worker windows by source, and how many of them failed."""
    parts = [
        f"{one.count} {one.source}{f' ({one.troubled} failed)' if one.troubled else ''}" for one in digest.triggers
    ]
    return ", ".join(parts) or "none"


def action_words(digest: Digest) -> list[tuple[str, str]]:
    """Each actor with what they did: `retried 12, paused 1`."""
    past = PAST | {action: words for plugin in load_plugins() for action, words in plugin.wording.items()}
    return [
        (actor, ", ".join(f"{past.get(one.action, one.action)} {one.count}" for one in done))
        for actor, done in groupby(digest.actions, key=lambda one: one.actor)
    ]


def cycle_words(result: CycleResult) -> str:
    """The number of jobs that a cycle ran, by outcome, and the reason when processing is paused."""
    counted = f"processed {result.processed}: {result.succeeded} succeeded, {result.failed} failed"
    if result.status != "paused":
        return counted
    reason = "no reason given" if result.message in {"", CycleResult.PAUSED} else result.message
    began = f"{counted}; then processing was" if result.processed else "Nothing ran: processing is"
    return f"{began} paused ({reason})."
