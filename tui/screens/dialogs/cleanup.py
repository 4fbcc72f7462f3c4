"""The dialogs before a cleanup and a purge. Stuck jobs are listed first; exactly those are marked failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.content import Content

from jobdeck.tui.commands import PURGE, cleanup_twin
from jobdeck.tui.format import one_line, plural, short_id
from jobdeck.tui.screens.dialogs.confirm import FIRST, Question, ask, needed_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from textual.screen import Screen

    from jobdeck.core.model import ActionResult
    from jobdeck.tui.deck import Deck


def ask_to_clean_up(here: Screen[Any], deck: Deck) -> None:
    """Looks for stuck jobs and asks whether to mark them failed.

    If another screen was opened meanwhile, a toast reports them: a key meant for that screen must not answer.
    """

    def found(results: list[ActionResult]) -> None:
        if not results:
            deck.say("No stuck jobs: no job has been running for 20 minutes with an expired lease.\njobdeck cleanup")
            return
        if not deck.shows(here):
            deck.say(
                f"There {'is' if len(results) == 1 else 'are'} {plural(len(results), 'stuck job')}.\njobdeck cleanup"
            )
            return
        ids = [result.job_id for result in results]
        seen = deck.view.snapshot.page.jobs if deck.view else ()
        types = {job.id: job.task_type for job in seen}
        question = stuck_question(results, types, production=deck.options.production)
        ask(here, question, lambda: deck.operations.cleanup(ids))

    deck.operations.find_stuck(found)


def stuck_question(results: Sequence[ActionResult], types: Mapping[UUID, str], *, production: bool) -> Question:
    """The question before stuck jobs are marked failed; `types` are the task types that are known."""
    number = len(results)
    lines = [
        Content.assemble(
            (f"{short_id(one.job_id)}  ", "$ink-muted"),
            (f"{one_line(types[one.job_id])}  " if one.job_id in types else "", "bold"),
            one_line(one.message),
        )
        for one in results[:FIRST]
    ]
    if number > FIRST:
        lines.append(Content.styled(f"and {number - FIRST} more", "$ink-muted"))
    lines += [
        Content(""),
        Content("A live worker recovers such jobs by itself. Jobs marked failed stay and can be retried or deleted; "
                "a recurring job runs again at its next slot."),
    ]  # fmt: skip
    title = f"Mark {plural(number, 'stuck job')} failed"
    word = needed_word("cleanup", number, production=production)
    same = cleanup_twin([one.job_id for one in results])
    return Question(title, Content("\n").join(lines), title, word=word, danger=True, twin=same)


def ask_to_purge(here: Screen[Any], deck: Deck) -> None:
    """Counts old jobs and asks whether to purge them; a toast reports them if another screen was opened meanwhile."""

    def counted(number: int) -> None:
        if not number:
            deck.say("Nothing to purge: no succeeded or cancelled job ended more than 14 days ago.\njobdeck purge")
            return
        if not deck.shows(here):
            deck.say(f"{plural(number, 'old job')} can be moved to the trash.\njobdeck purge")
            return
        ask(here, purge_question(number, production=deck.options.production), deck.operations.purge)

    deck.operations.count_old(counted)


def purge_question(number: int, *, production: bool) -> Question:
    """The question before old jobs are moved to the trash."""
    title = f"Remove {plural(number, 'old job')}"
    body = Content(
        f"{plural(number, 'succeeded or cancelled job')} ended more than 14 days ago. They are moved to the trash, "
        "from which they can be restored for 7 days; their runs stay in the history for 30 days."
    )
    word = needed_word("purge", number, production=production)
    return Question(title, body, title, word=word, danger=True, twin=PURGE)
