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
    from collections.abc import Sequence

    from jobdeck.core.read.report_types import Clause
    from jobdeck.tui.text.job_detail import Page

OF_STATUS = "status"
"""The name of the clause that refuses a job that has ended."""


def why(page: Page, clauses: Sequence[Clause]) -> tuple[str, list[Content]]:
    """The heading, and the clauses. A pane has those that do not hold, and names all others in one line."""
    broken = [clause for clause in clauses if not clause.holds]
    held = [clause for clause in clauses if clause.holds]
    folds = page.beside and len(held) > 1
    shown = broken if folds else clauses
    width = max((cell_len(one_line(clause.name)) for clause in shown), default=0) + 2
    lines = [_line(page, clause, width) for clause in shown]
    if folds:
        names = ", ".join(one_line(clause.name) for clause in held)
        others = f"{plural(len(held), 'other condition')} hold" if broken else f"all {len(held)} conditions hold"
        words = page.hanging(f"{others}: {names}", 2)
        lines.append(Content.assemble(("✓ ", "$success"), (words, "$ink-muted")))
    return _heading(page, clauses), lines


def _line(page: Page, clause: Clause, width: int) -> Content:
    """A clause. What would keep an ended job only after a retry is no reason why it does not run now."""
    name, evidence = fit(one_line(clause.name), width), one_line(clause.evidence)
    if clause.holds:
        sign, inks = ("✓ ", "$success"), ("$ink-muted", "$ink-muted")
    elif page.job.status in FINISHED and clause.name != OF_STATUS:
        sign, inks, evidence = ("◌ ", "$warning"), ("", "$ink-muted"), f"After a retry: {evidence}"
    else:
        sign, inks = ("✗ ", "$error"), ("bold", "")
    return Content.assemble(sign, (name, inks[0]), (page.hanging(evidence, width + 2), inks[1]))


def _heading(page: Page, clauses: Sequence[Clause]) -> str:
    if page.job.status is Status.RUNNING:
        held = "A worker has claimed it" if status_word(page.job) == CLAIMED else "It is running"
        return f"{held}. Conditions of its next claim"
    return "Why it runs" if all(clause.holds for clause in clauses) else "Why it is not running"
