"""A flow as a tree of lines, for commands and the dashboard alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from uuid import UUID

    from jobdeck.core.read.pages.flows import FlowMember, FlowTree

SHOWN_ALIKE: Final = 5
"""Of members side by side that wait for the same and have the same type and state, how many are shown one by one."""
NAMED: Final = 3
"""How many of the members that another waits for are named in its line."""
NAMED_BELOW: Final = 100
"""How many of them are named where there is room."""
_DEEPEST: Final = 30
"""Columns by which a member is indented at most."""


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One member, or with `member` None a sentence (`text`) about some that are not shown. `prefix` draws the branch.

    Names in `text` are foreign text, as those of members are.
    """

    prefix: str
    member: FlowMember | None
    text: str


def lines(tree: FlowTree, *, most: int, around: UUID | None = None) -> list[TreeLine]:
    """The members, each once: below the one that it waits for, or beside those, if it waits for several.

    At most `most` lines, of which the last says how many members are missing. The member `around` is always among them.
    """
    below = _below(tree.members)
    names = {member.job_id: member.name for member in tree.members}
    made = list(_drawn(below, None, "", names, around))
    if len(made) <= most:
        return made
    kept = made[: most - 1]
    if around is not None and not any(_is(line, around) for line in kept):
        kept = [*made[: most - 2], *(line for line in made if _is(line, around))][: most - 1]
    return [*kept, TreeLine("", None, f"… {len(made) - len(kept):,} more lines")]


def waits_for(member: FlowMember, names: dict[UUID, str], named: int = NAMED) -> str:
    """Whom a member waits for that does not hang below its blocker: `after 10: a, b, c and 7 more`; else empty."""
    blockers = [*(names[blocker] for blocker in member.blockers), *(f"job {job_id}" for job_id in member.outside)]
    words = {"end": "the end of ", "failure": "a failure among "}.get(member.needs, "")
    if len(blockers) == 1 and not member.outside:
        return f"after {words}{blockers[0]}" if words else ""
    if not blockers:
        return ""
    more = f" and {len(blockers) - named:,} more" if len(blockers) > named else ""
    listed = f"{', '.join(blockers[:named])}{more}"
    return f"after {words}{len(blockers):,}: {listed}" if len(blockers) > 1 else f"after {words}{listed}"


def waits_below(tree: FlowTree, job_id: UUID) -> str:
    """All whom a member waits for, at most `NAMED_BELOW` by name; empty if its line in the tree names them all."""
    member = next((one for one in tree.members if one.job_id == job_id), None)
    if member is None or len(member.blockers) + len(member.outside) <= NAMED:
        return ""
    return waits_for(member, {one.job_id: one.name for one in tree.members}, NAMED_BELOW)


def _below(members: Sequence[FlowMember]) -> dict[UUID | None, list[FlowMember]]:
    """The members by the one below which they are drawn."""
    above: dict[UUID, UUID | None] = {}
    below: dict[UUID | None, list[FlowMember]] = {}
    for member in members:
        first = member.blockers[0] if member.blockers else member.added_by
        place = first if len(member.blockers) <= 1 else above.get(first) if first else None
        above[member.job_id] = place
        below.setdefault(place, []).append(member)
    return below


def _drawn(
    below: dict[UUID | None, list[FlowMember]],
    root: UUID | None,
    indent: str,
    names: dict[UUID, str],
    around: UUID | None,
) -> Iterator[TreeLine]:
    """The lines below a member, depth first. It keeps a stack of its own, because a chain may have 10,000 members."""
    stack = [(indent, iter(_grouped(below.get(root, ()), below, around)))]
    while stack:
        indent, rest = stack[-1]
        found = next(rest, None)
        if found is None:
            stack.pop()
            continue
        one, is_last = found
        nested = len(stack) > 1
        branch = f"{indent}{'└─ ' if is_last else '├─ '}" if nested else ""
        if isinstance(one, str):
            yield TreeLine(branch, None, one)
            continue
        yield TreeLine(branch, one, waits_for(one, names))
        under = f"{indent}{'   ' if is_last else '│  '}" if nested else ""
        # A long chain would need a screen as wide as it is long.
        stack.append((under[:_DEEPEST], iter(_grouped(below.get(one.job_id, ()), below, around))))


def _grouped(
    siblings: Iterable[FlowMember], below: dict[UUID | None, list[FlowMember]], around: UUID | None
) -> list[tuple[FlowMember | str, bool]]:
    """The members side by side, with a sentence in place of many that are alike, and whether each is the last."""
    siblings = list(siblings)
    alike = Counter(_kind(one) for one in siblings if one.job_id not in below and one.job_id != around)
    shown: Counter[tuple[str, ...]] = Counter()
    found: list[FlowMember | str] = []
    for one in siblings:
        kind = _kind(one)
        if one.job_id in below or one.job_id == around or alike[kind] <= SHOWN_ALIKE + 1:
            found.append(one)
            continue
        shown[kind] += 1
        if shown[kind] <= SHOWN_ALIKE:
            found.append(one)
        elif shown[kind] == alike[kind]:
            found.append(f"… {alike[kind] - SHOWN_ALIKE:,} more {one.task_type}, {one.state}")
    return [(one, place == len(found)) for place, one in enumerate(found, 1)]


def _kind(member: FlowMember) -> tuple[str, ...]:
    return member.task_type, member.state, member.needs, *(str(blocker) for blocker in member.blockers[:NAMED])


def _is(line: TreeLine, job_id: UUID) -> bool:
    return line.member is not None and line.member.job_id == job_id
