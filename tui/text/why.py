"""The conditions of a job's next claim, as its page says them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from jobdeck.core.model import Status
from jobdeck.core.read.sentences import CLAIMED, status_word
from jobdeck.tui.actions import FINISHED
from jobdeck.tui.format import fit, one_line, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.model import Job
    from jobdeck.core.read.report_types import Clause

    Hanging = Callable[[str, int], str]
    """Wraps a text, with its further lines indented."""

OF_STATUS = "status"
"""The name of the clause that refuses a job that has ended."""


def why(job: Job, clauses: Sequence[Clause], hanging: Hanging, *, brief: bool) -> tuple[str, list[Content]]:
    """The heading, and the clauses. If it is to be `brief`, those that hold are named in one line."""
    broken = [clause for clause in clauses if not clause.holds]
    held = [clause for clause in clauses if clause.holds]
    folds = brief and len(held) > 1
    shown = broken if folds else clauses
    width = max((cell_len(one_line(clause.name)) for clause in shown), default=0) + 2
    lines = [_line(job, clause, width, hanging) for clause in shown]
    if folds:
        names = ", ".join(one_line(clause.name) for clause in held)
        others = f"{plural(len(held), 'other condition')} hold" if broken else f"all {len(held)} conditions hold"
        words = hanging(f"{others}: {names}", 2)
        lines.append(Content.assemble(("✓ ", "$success"), (words, "$ink-muted")))
    return _heading(job, clauses), lines


def _line(job: Job, clause: Clause, width: int, hanging: Hanging) -> Content:
    """A clause. What would keep an ended job only after a retry is no reason why it does not run now."""
    name, evidence = fit(one_line(clause.name), width), one_line(clause.evidence)
    if clause.holds:
        sign, inks = ("✓ ", "$success"), ("$ink-muted", "$ink-muted")
    elif job.status in FINISHED and clause.name != OF_STATUS:
        sign, inks, evidence = ("◌ ", "$warning"), ("", "$ink-muted"), f"After a retry: {evidence}"
    else:
        sign, inks = ("✗ ", "$error"), ("bold", "")
    return Content.assemble(sign, (name, inks[0]), (hanging(evidence, width + 2), inks[1]))


def _heading(job: Job, clauses: Sequence[Clause]) -> str:
    if job.status is Status.RUNNING:
        held = "A worker has claimed it" if status_word(job) == CLAIMED else "It is running"
        return f"{held}. Conditions of its next claim"
    return "Why it runs" if all(clause.holds for clause in clauses) else "Why it is not running"
