"""The table of actions, from which bindings, key line, palette and help are made, and why an action is unavailable."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, get_args

from textual.binding import Binding, BindingsMap
from textual.keys import key_to_character

from jobdeck.core import plugins
from jobdeck.core.model import Status
from jobdeck.core.read.filters import starts
from jobdeck.core.read.sentences import PAST
from jobdeck.tui import dialog_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jobdeck.core.model import Job
    from jobdeck.core.plugins import Page
    from jobdeck.core.queue.bulk_model import Choice

Scope = Literal["list", "detail", "health", "errors", "workers", "audit", "playbook", "log", "bulk", "table", "types",
                "trends", "series", "runs", "facets", "fleet"]  # fmt: skip
LIST: Final[frozenset[Scope]] = frozenset({"list"})
DETAIL: Final[frozenset[Scope]] = frozenset({"detail"})
BOTH: Final[frozenset[Scope]] = LIST | DETAIL
FLEET: Final[frozenset[Scope]] = frozenset({"fleet"})
ALL: Final[frozenset[Scope]] = frozenset(get_args(Scope)) - FLEET
"""All pages of one database."""
HEALTH: Final[frozenset[Scope]] = frozenset({"health"})
ERRORS: Final[frozenset[Scope]] = frozenset({"errors"})
FACETS: Final[frozenset[Scope]] = frozenset({"facets"})
AUDIT: Final[frozenset[Scope]] = frozenset({"audit"})
LISTING_JOBS: Final[frozenset[Scope]] = frozenset({"health", "workers", "audit", "bulk", "series", "runs"})
RUNNING_JOBS: Final[frozenset[Scope]] = frozenset({"list", "workers", "health"})
READING: Final[frozenset[Scope]] = frozenset({"playbook"})
BULK: Final[frozenset[Scope]] = frozenset({"bulk"})
TABLE: Final[frozenset[Scope]] = frozenset({"table"})
TYPES: Final[frozenset[Scope]] = frozenset({"types"})
TRENDS: Final[frozenset[Scope]] = frozenset({"trends"})
SERIES: Final[frozenset[Scope]] = frozenset({"series"})
OF_REMOVED: Final = frozenset({"job.retry", "job.retry_with", "job.duplicate", "job.detail"})
ON_ONE: Final = frozenset({"job.edit", "job.retry_with", "job.duplicate", "job.detail"})
"""The actions on the job under the cursor, even if others are marked."""
ON_MANY: Final = {f"job.{verb}": PAST[verb] for verb in ("retry", "cancel", "delete", "edit")}
"""The actions on all jobs that were chosen with A, with their past tense."""
FINISHED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})

NO_KEY: Final = "no key for "
NO_ANSWER: Final = "The database does not answer. No changes are possible until it does."
CONNECTING: Final = "The dashboard is still connecting to the database. Try again when the list is shown."

KEY_NAMES = {"slash": "/", "question_mark": "?", "plus": "+", "minus": "-", "escape": "esc",
             "pagedown": "pgdn", "pageup": "pgup", "colon": ":", "left_square_bracket": "[",
             "right_square_bracket": "]", "at": "@", "backslash": "\\", "underscore": "_"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Action:
    """One action.

    `states` are the statuses of the jobs it applies to, None for an action without jobs. `changes` is whether it
    changes the database. An action without keys is found in the palette.
    """

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    group: str
    scopes: frozenset[Scope] = LIST
    states: frozenset[Status] | None = None
    changes: bool = False
    footer: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts that decide whether an action is available.

    `unreached`, `read_only` and `no_work` say why nothing may be changed, and why no job may run here; `refused` are a
    page's own reasons, by action id. `chosen` are the jobs that A chose and froze. `folded` is whether the row under
    the cursor stands for several jobs. `keymap` holds the configured keys. With `mouse`, everything must be clickable.
    `in_fleet` is whether the list of jobs leads back to the fleet.
    """

    jobs: tuple[Job, ...] = ()
    unreached: str | None = None
    read_only: str | None = None
    no_work: str | None = None
    cycle_running: bool = False
    worker_changing: bool = False
    can_undo: bool = False
    chosen: Choice | None = None
    folded: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    keymap: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mouse: bool = False
    in_fleet: bool = False

    def keys(self, action: Action) -> tuple[str, ...]:
        """The keys of an action in Textual's names."""
        return self.keymap.get(action.id, action.keys)

    def key_names(self, action: Action) -> tuple[str, ...]:
        """The keys of an action as they are shown."""
        return tuple(key_name(key) for key in self.keys(action))

    def key(self, action: Action) -> str:
        """The first key of an action as it is shown; empty where it has none."""
        return next(iter(self.key_names(action)), "")


def _tab(number: int, name: str) -> Action:
    return Action(f"tab.{name}", (str(number),), name, f"show {name} jobs", "Look")


def _page(name: Scope, key: str, label: str, meaning: str, *, footer: bool = False) -> Action:
    """The action that opens a page, available on all other pages."""
    return Action(f"page.{name}", (key,), label, meaning, "Pages", scopes=ALL - {name}, footer=footer)


ACTIONS: Final[tuple[Action, ...]] = (
    Action("job.retry", ("R",), "retry", "make jobs due now; run jobs again that have succeeded",
           "Act", scopes=BOTH, states=frozenset({Status.PENDING}) | FINISHED, changes=True, footer=True),
    Action("job.cancel", ("C",), "cancel", "cancel jobs; a running one is asked to stop", "Act", scopes=BOTH,
           states=frozenset({Status.PENDING, Status.RUNNING, Status.FAILED}), changes=True, footer=True),
    Action("job.delete", ("D",), "delete", "move jobs to the trash, for 7 days", "Act", scopes=BOTH,
           states=frozenset({Status.PENDING}) | FINISHED, changes=True, footer=True),
    Action("job.new", ("n",), "new", "Create Job: any task type, once or recurring, with a dry run first", "Act",
           scopes=BOTH, changes=True, footer=True),
    Action("job.duplicate", ("N",), "duplicate", "Create Job, filled in from this job", "Act", scopes=BOTH,
           states=frozenset(Status), changes=True),
    Action("job.edit", ("E",), "edit", "change payload and schedule of a job that is not running", "Act", scopes=BOTH,
           states=frozenset({Status.PENDING, Status.FAILED, Status.CANCELLED}), changes=True, footer=True),
    Action("bulk.refused", ("f",), "refused only", "show only refused jobs, or all again", "Look",
           scopes=BULK, footer=True),
    Action("bulk.older", ("left_square_bracket",), "older", "previous bulk action", "Look", scopes=BULK),
    Action("bulk.newer", ("right_square_bracket",), "newer", "next bulk action", "Look", scopes=BULK),
    Action("bulk.go_on", ("O",), "resume", "resume a stalled bulk action in this dashboard", "Act", scopes=BULK,
           changes=True, footer=True),
    Action("bulk.stop", ("H",), "halt", "stop the bulk action; finished jobs keep their result", "Act", scopes=BULK,
           changes=True, footer=True),
    Action("bulk.undo", ("u",), "undo", "undo this deletion or edit of many jobs", "Act", scopes=BULK,
           changes=True, footer=True),
    Action("worker.cycle", ("w",), "run worker", "Run Worker: one cycle of up to 5 due jobs, here and now", "Act",
           scopes=RUNNING_JOBS, changes=True, footer=True),
    Action("worker.embedded", ("W",), "worker", "start or stop the worker inside this dashboard", "Act",
           scopes=RUNNING_JOBS, changes=True),
    Action("job.retry_with", ("T",), "edit+retry", "edit the payload (JSON), then retry", "Act",
           scopes=BOTH | ERRORS, states=frozenset({Status.PENDING}) | FINISHED, changes=True, footer=True),
    Action("job.restore", ("u",), "restore", "restore a deleted job from the trash", "Act", scopes=DETAIL,
           changes=True),
    Action("flow.cancel", ("V",), "cancel flow", "cancel the whole flow of this job; running jobs are asked to stop",
           "Act", scopes=DETAIL, changes=True, footer=True),
    Action("job.reveal", ("X",), "reveal", "show personal data unmasked, or mask it; viewing is audited",
           "Act", scopes=DETAIL, changes=True),
    Action("errors.canary", ("R",), "retry one", "retry one job of this group and watch its result", "Act",
           scopes=ERRORS, changes=True, footer=True),
    Action("errors.rest", ("F",), "retry rest", "finish: retry all other jobs of this group, once one has succeeded",
           "Act", scopes=ERRORS, changes=True, footer=True),
    Action("errors.mute", ("M",), "mute", "mute this group of errors until a time, or unmute it", "Act", scopes=ERRORS,
           changes=True, footer=True),
    Action("errors.jobs", ("enter",), "jobs", "list the jobs of this group, or those with the value of a facet", "Look",
           scopes=ERRORS | FACETS, footer=True),
    Action("errors.sort", ("s",), "sort", "sort by first seen, runs, failed jobs or last seen", "Look", scopes=ERRORS),
    Action("note.leave", ("L",), "leave note", "leave a note for the next shift", "Act", scopes=AUDIT, changes=True,
           footer=True),
    Action("note.acknowledge", ("D",), "acknowledge", "acknowledge the note on this line, which closes it",
           "Act", scopes=AUDIT, changes=True, footer=True),
    Action("type.settings", ("E",), "settings", "limits of this type, thresholds of its failures, and its mute",
           "Act", scopes=TYPES, changes=True, footer=True),
    Action("series.run", ("R",), "due now", "make the next run of this series due now", "Act", scopes=SERIES,
           changes=True, footer=True),
    Action("series.pause", ("Z",), "hold", "pause this series alone, or resume it at its next slot", "Act",
           scopes=SERIES, changes=True, footer=True),
    Action("series.skip", ("S",), "skip one", "skip the next run of this series", "Act", scopes=SERIES, changes=True,
           footer=True),
    Action("stuck.cleanup", ("K",), "clean up", "list stuck running jobs, then mark them failed",
           "Act", scopes=HEALTH | LIST, changes=True),
    Action("queue.purge", (), "purge", "remove succeeded and cancelled jobs that ended more than 14 days ago", "Act",
           scopes=HEALTH | LIST, changes=True),
    Action("processing", ("P",), "pause", "Automatic Processing: pause or resume everything or one task type", "Act",
           scopes=ALL, changes=True, footer=True),
    _page("health", "h", "cron health", "Cron Health: verdict, triggers, workers, stuck and late jobs", footer=True),
    Action("quick.sync", ("Q",), "quick sync", "Quick Sync: full, incremental or totals", "Act", changes=True,
           footer=True),
    Action("mark.undo", ("u",), "unmark", "clear marks; with no marks, undo the last delete", "Act"),
    _page("errors", "e", "errors", "similar errors in groups, with the playbook's advice", footer=True),
    _page("workers", "m", "workers", "workers, their jobs, and types without a worker"),
    Action("page.trends", ("t",), "trends", "runs, wait, duration and backlog over time", "Pages",
           scopes=ALL - TRENDS - AUDIT - TYPES),
    _page("types", "i", "types", "task types: jobs, wait, rate and failures of each; pause, thresholds, mute"),
    _page("series", "c", "series", "recurring jobs: next and last run, streak; skip one, run now, pause"),
    _page("audit", "o", "operators", "audit log: who did what, and a digest of the shift"),
    Action("page.facets", ("f",), "facets", "what these jobs have more often than all runs of their type", "Pages"),
    _page("runs", "x", "runs", "newest runs, and jobs that may have acted twice"),
    Action("page.bulk", ("b",), "bulk actions", "progress of bulk actions, and the answer for each job",
           "Pages", scopes=ALL - READING - BULK),
    _page("playbook", "p", "playbook", "the operators' playbook"),
    _page("log", "l", "log", "log of the worker inside this dashboard"),
    Action("filter", ("slash",), "filter", "search words", "Look", footer=True),
    Action("job.detail", ("enter",), "detail", "details of the job under the cursor", "Look",
           states=frozenset(Status), footer=True),
    Action("open", ("enter",), "open", "what this line or job names: a job, a worker, a type, a note", "Look",
           scopes=LISTING_JOBS | TRENDS | DETAIL, footer=True),
    Action("run.older", ("left_square_bracket",), "older run", "log, error and output of the previous run", "Look",
           scopes=DETAIL),
    Action("run.newer", ("right_square_bracket",), "newer run", "log, error and output of the next run", "Look",
           scopes=DETAIL),
    Action("table.act", ("enter",), "act", "choose an action of this page", "Act", scopes=TABLE, changes=True,
           footer=True),
    Action("table.search", ("slash",), "search", "narrow this page down", "Look", scopes=TABLE, footer=True),
    Action("pane.next", ("tab",), "other part", "switch to the other part of the page", "Look",
           scopes=ERRORS | TYPES | TRENDS | SERIES),
    Action("period", ("t",), "period", "period: 1 h, 8 h, 24 h or 7 d", "Look", scopes=AUDIT,
           footer=True),
    Action("window", ("t",), "window", "window: 1 h, 6 h, 24 h, 7 d or 30 d", "Look", scopes=TRENDS, footer=True),
    Action("type.jobs", ("enter",), "jobs", "list the jobs of the type under the cursor", "Look", scopes=TYPES,
           footer=True),
    Action("type.trends", ("t",), "trends", "trends of the type under the cursor", "Look", scopes=TYPES,
           footer=True),
    Action("section.next", ("right_square_bracket", "tab"), "next section", "go to the next section", "Look",
           scopes=READING, footer=True),
    Action("section.previous", ("left_square_bracket", "shift+tab"), "previous section", "go to the previous section",
           "Look", scopes=READING, footer=True),
    _tab(1, "all"), _tab(2, "pending"), _tab(3, "running"), _tab(4, "succeeded"), _tab(5, "failed"),
    _tab(6, "cancelled"),
    Action("columns", ("vertical_line",), "columns", "choose the columns of this tab", "Look"),
    Action("beside", ("d",), "details beside", "show or hide the details of a job, from 30 lines on", "Look"),
    Action("sort", ("s",), "sort", "sort by the next column", "Look"),
    Action("sort.reverse", ("S",), "reverse", "reverse the order", "Look"),
    Action("palette", ("colon", "ctrl+p"), "palette", "search all actions by name", "Pages", scopes=ALL),
    Action("theme", (), "theme", "switch to the next colour theme", "Pages", scopes=ALL),
    Action("freeze", ("z",), "freeze", "stop or resume refreshing", "Look"),
    Action("interval.longer", ("plus",), "slower", "refresh less often", "Look"),
    Action("interval.shorter", ("minus",), "faster", "refresh more often", "Look"),
    Action("move.down", ("j", "down"), "down", "next line", "Move", scopes=ALL | FLEET),
    Action("move.up", ("k", "up"), "up", "previous line", "Move", scopes=ALL | FLEET),
    Action("move.half_down", ("ctrl+d", "pagedown"), "half page down", "half a page down", "Move", scopes=ALL | FLEET),
    Action("move.half_up", ("ctrl+u", "pageup"), "half page up", "half a page up", "Move", scopes=ALL | FLEET),
    Action("move.top", ("g", "home"), "top", "go to the top", "Move", scopes=ALL | FLEET),
    Action("move.bottom", ("G", "end"), "bottom", "go to the bottom", "Move", scopes=ALL | FLEET),
    Action("mark", ("space",), "mark", "mark or unmark the job under the cursor", "Mark"),
    Action("mark.range", ("v",), "range", "mark a range that starts at the cursor; again to end it", "Mark"),
    Action("mark.all", ("a",), "mark all", "mark or unmark all listed jobs", "Mark"),
    Action("mark.matching", ("A",), "all that match", "select all jobs in the queue that match tab and filter",
           "Mark", changes=True),
    Action("copy.id", ("y",), "copy id", "copy the id (OSC 52, and tmux's buffer)", "Copy", scopes=BOTH),
    Action("copy.twin", ("y",), "copy command", "copy the equivalent command", "Copy", scopes=BULK),
    Action("copy.digest", ("y",), "copy hand-over", "copy the digest as Markdown, for the hand-over", "Copy",
           scopes=AUDIT),
    Action("copy.json", ("Y",), "copy JSON", "copy the job as JSON, personal data masked", "Copy", scopes=BOTH),
    Action("help", ("question_mark",), "help", "this page", "Leave", scopes=ALL | FLEET, footer=True),
    Action("back", ("escape",), "back", "clear the range, the filter or the marks; leave this page", "Leave",
           scopes=ALL),
    Action("quit", ("q",), "quit", "quit; asks first if jobs run here", "Leave", scopes=ALL | FLEET,
           footer=True),
    Action("refresh", ("r",), "refresh", "refresh now; when disconnected, reconnect now", "Look",
           scopes=ALL | FLEET, footer=True),
    Action("fleet.open", ("enter",), "open", "open the database under the cursor", "Look", scopes=FLEET, footer=True),
)  # fmt: skip
BY_ID: Final = {action.id: action for action in ACTIONS}
PAGES: Final = tuple(action.id.removeprefix("page.") for action in ACTIONS if action.id.startswith("page."))
GROUPS: Final = tuple(dict.fromkeys(action.group for action in ACTIONS))
OF_TABLE: Final = "table."
"""The prefix of the ids of actions that open a plugin's page."""


def table_pages() -> dict[str, Page]:
    """The pages of the plugins, by the id of the action that opens each."""
    pages = (page for plugin in plugins.load_plugins() for page in plugin.pages)
    return {f"{OF_TABLE}{re.sub(r'[^a-z0-9]+', '_', page.title.lower())}": page for page in pages}


def page_actions() -> tuple[Action, ...]:
    """The actions that open the pages of the plugins."""
    words = "{}, a page of a plugin".format
    return tuple(
        Action(name, (page.key,), page.title.lower(), page.about or words(page.title), "Pages", scopes=ALL)
        for name, page in table_pages().items()
    )


def offered(scope: Scope | None = None) -> tuple[Action, ...]:
    """The actions of one scope, or all: with the plugins' pages, and Quick Sync only where a plugin has presets.

    The help of the filter lists all filter keys, including those of plugins.
    """
    absent = set() if plugins.presets() else {"quick.sync"}
    filter_help = f"{BY_ID['filter'].help}; {' '.join(starts())}"
    return tuple(
        replace(action, help=filter_help) if action.id == "filter" else action
        for action in (*ACTIONS, *page_actions())
        if action.id not in absent and (scope is None or scope in action.scopes)
    )


def find(action_id: str) -> Action | None:
    """The action with this id, if it is offered."""
    return next((action for action in offered() if action.id == action_id), None)


def key_name(key: str) -> str:
    """A key as it is shown."""
    character = key_to_character(key) or ""
    return KEY_NAMES.get(key) or (character if character.isprintable() and not character.isspace() else "") or key


def key_of(wanted: str, keymap: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> str:
    """The first key of an action or of a dialog key, as it is shown; `keymap` holds configured keys."""
    keys = keymap.get(wanted) or (BY_ID[wanted] if wanted in BY_ID else dialog_keys.find(wanted)).keys
    return key_name(keys[0]) if keys else ""


def bindings(scope: Scope) -> list[Binding]:
    """The bindings of one scope. Each has its action's id, so that a keymap can change its keys.

    An action without a key is bound to a name that no keyboard sends, so that a keymap can give it a key.
    """
    return [_binding(action) for action in ACTIONS if scope in action.scopes]


def page_bindings() -> BindingsMap:
    """The bindings that open the plugins' pages; each screen adds them to its own."""
    return BindingsMap([_binding(action) for action in page_actions()])


def _binding(action: Action) -> Binding:
    keys = ",".join(action.keys) or f"{NO_KEY}{action.id}"
    return Binding(keys, f"do({action.id!r})", show=False, id=action.id)


def applicable(action: Action, jobs: Iterable[Job]) -> list[Job]:
    """The jobs whose status allows the action; a job that left the queue can only run again.

    Jobs that have succeeded are run again, not retried, so not together with others.
    """
    states = action.states or frozenset()
    found = [job for job in jobs if job.status in states and (not job.removed or action.id in OF_REMOVED)]
    unfinished = [job for job in found if job.status is not Status.SUCCEEDED]
    return unfinished if action.id == "job.retry" and unfinished else found


def runs_again(now: Situation) -> bool:
    """Whether the key for a retry runs the jobs again: all that it applies to have succeeded."""
    jobs = applicable(BY_ID["job.retry"], now.jobs)
    return now.chosen is None and bool(jobs) and all(job.status is Status.SUCCEEDED for job in jobs)


def unavailable(action: Action, now: Situation) -> str | None:
    """The reason why an action is not available, as a sentence; None if it is available."""
    if action.changes or (action.id == "mark.undo" and now.can_undo):
        forbidden = now.no_work if action.id.startswith("worker.") else now.read_only
        if forbidden:
            return forbidden
        if now.unreached:
            return now.unreached
    if action.id in now.refused:
        return now.refused[action.id]
    if action.id == "worker.cycle" and now.cycle_running:
        return "A cycle is already running. Wait for its result."
    if action.id == "worker.embedded" and now.worker_changing:
        return "The worker in this dashboard is starting or stopping."
    return _unfit(action, now)


def general(now: Situation) -> tuple[str, ...]:
    """The reasons that apply to all actions that change something, each once."""
    given = (now.read_only, now.no_work, now.unreached)
    reasons = {unavailable(action, now) for action in ACTIONS if action.changes}
    return tuple(dict.fromkeys(reason for reason in given if reason and reason in reasons))


def _unfit(action: Action, now: Situation) -> str | None:
    jobs, chosen = now.jobs, now.chosen
    if action.states is None:
        return None
    if chosen is not None and action.id in ON_MANY:
        fitting = any(chosen.of(status.value) for status in action.states)
        return None if fitting else f"None of the chosen jobs can be {ON_MANY[action.id]}."
    if not jobs:
        return "No job under the cursor."
    return None if applicable(action, jobs) else _refusal(action, jobs, now)


def _refusal(action: Action, jobs: Sequence[Job], now: Situation) -> str:
    if any(job.removed for job in jobs):
        runs = now.key(BY_ID["job.retry"])
        return f"Cannot {action.label}: the job succeeded and has left the queue. {runs} runs it again."
    statuses = " or ".join(sorted({job.status.value for job in jobs}))
    hint = {"job.retry": " Cancel it first.", "job.delete": " Cancel it first."}.get(action.id, "")
    if Status.RUNNING not in {job.status for job in jobs}:
        hint = ""
    return f"Cannot {action.label}: a {statuses} job does not allow it.{hint}"
