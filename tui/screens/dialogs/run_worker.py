"""The dialog before a cycle of the worker: which database, which environment, and what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from textual.content import Content

from jobdeck.tui.commands import RUN_WORKER
from jobdeck.tui.format import fit, one_line, plural
from jobdeck.tui.screens.dialogs.confirm import Question, ask, needed_word

if TYPE_CHECKING:
    from textual.screen import Screen

    from jobdeck.tui.backend.protocol import Due
    from jobdeck.tui.deck import Deck

LISTED: Final = 6
LABEL: Final = 13


def ask_to_run_worker(here: Screen[Any], deck: Deck) -> None:
    """Reads what is due and asks whether to run a cycle; if another screen was opened meanwhile, nothing is asked."""

    def found(due: Due) -> None:
        if deck.shows(here):
            ask(here, cycle_question(deck, due), deck.operations.run_cycle)

    deck.operations.find_due(found)


def cycle_question(deck: Deck, due: Due) -> Question:
    """The question before a cycle of up to five jobs in this terminal's environment."""
    view, options = deck.view, deck.options
    environment = one_line(options.environment) or "not named (JOBDECK_ENVIRONMENT)"
    style = "bold $error" if options.production else "bold" if options.environment else ""
    database = one_line(view.session.label) if view else ""
    lines = [
        _fact("database", database, "bold"),
        _fact("environment", environment, style),
        _fact("settings", "of this terminal, with its keys and addresses"),
        Content(""),
        *_due_lines(due),
    ]
    if view is not None and not view.snapshot.processing.enabled:
        resumes = f"Processing is paused, so no job would run. {deck.key('processing')} resumes it."
        lines += [Content(""), Content.styled(resumes, "$warning")]
    word = needed_word("run", 0, production=options.production)
    body = Content("\n").join(lines)
    return Question("Run Worker: one cycle of up to 5 jobs, here", body, "Run", word=word, twin=RUN_WORKER, ready=True)


def _fact(name: str, value: str, style: str = "") -> Content:
    return Content.assemble((f"{name:<{LABEL}}", "$ink-muted"), (value, style))


def _due_lines(due: Due) -> list[Content]:
    if not due.types:
        return [_fact("due now", "no job that may run here")]
    jobs = sum(number for _, number in due.types)
    total = f"{plural(jobs, 'job')} of {plural(len(due.types), 'type')}"
    lines = [_fact("due now", total if due.counted else f"more than {total}", "bold")]
    lines += [
        Content(f"{number:>{LABEL - 2}}  {fit(one_line(name), 48).rstrip()}") for name, number in due.types[:LISTED]
    ]
    if len(due.types) > LISTED:
        lines.append(Content.styled(f"{'':{LABEL}}and {plural(len(due.types) - LISTED, 'more type')}", "$ink-muted"))
    return lines
