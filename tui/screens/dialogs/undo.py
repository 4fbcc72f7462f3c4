"""The dialog before deleted jobs are restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from textual.content import Content

from jobdeck.core.queue.bulk_model import Bulk
from jobdeck.tui.backend import bulk_words
from jobdeck.tui.backend.operations import Awaited
from jobdeck.tui.commands import twin
from jobdeck.tui.format import fit, one_line, plural, short_id
from jobdeck.tui.screens.dialogs.confirm import Question, needed_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.core.model import Job
    from jobdeck.tui.backend.operations import Deletion

TITLE: Final = "Undo the delete"


def undo_question(deletion: Deletion | Awaited, *, production: bool) -> Question:
    """The question before a deletion of this session is undone."""
    if isinstance(deletion, Bulk):
        return bulk_undo_question(deletion, production=production)
    return restore_question(TITLE, deletion.jobs if isinstance(deletion, Awaited) else deletion, production=production)


def bulk_undo_question(bulk: Bulk, *, production: bool) -> Question:
    """The question before the jobs that a bulk action deleted are restored."""
    good = bulk.done - bulk.refused
    body = Content(f"{bulk_words.plural_of(good)} will be restored from the trash, each as it was.")
    word = needed_word("restore", good, production=production)
    return Question(TITLE, body, "Restore", word=word, twin=bulk_words.twin_on("undo", bulk), ready=True)


def restore_question(title: str, jobs: Sequence[Job], *, production: bool) -> Question:
    """The question before these few jobs are restored from the trash."""
    lines = [
        Content.assemble(
            (f"{short_id(job.id)}  ", "$ink-muted"),
            fit(one_line(job.task_type), 40),
            (f"  {job.status.value}", "$ink-muted"),
        )
        for job in jobs
    ]
    one = len(jobs) == 1
    lines += [
        Content(""),
        Content(f"{'It is' if one else 'They are'} restored from the trash, as {'it was' if one else 'they were'}."),
    ]
    word = needed_word("restore", len(jobs), production=production)
    title = title or f"Restore {plural(len(jobs), 'job')}"
    return Question(title, Content("\n").join(lines), "Restore", word=word, twin=twin("restore", jobs), ready=True)
