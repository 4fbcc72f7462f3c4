"""The sentences for the codes and facts that the database answers with; commands and the dashboard show no others.

A code has a hyphen. Errors with SQLSTATE JD001 are sentences already (docs/decisions/answers.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from jobdeck.core.model import LEAST_PRIORITY, MOST_PRIORITY, ActionResult, RunOutcome, Status
from jobdeck.core.read.workers.slots import slot_words
from jobdeck.core.times import MINUTES, about, moment

if TYPE_CHECKING:
    from uuid import UUID

    from jobdeck.core.model import Job

Facts = Mapping[str, Any]
Sentence = str | Callable[[Facts], str]

PAST: Final[Mapping[str, str]] = {
    "retry": "retried", "cancel": "cancelled", "delete": "deleted", "restore": "restored", "edit": "edited",
    "revert": "reverted", "pause": "paused", "resume": "resumed", "run again": "ran again", "cleanup": "cleaned up",
    "reveal": "revealed", "note": "left notes", "acknowledge": "acknowledged notes", "mute errors": "muted errors",
    "unmute errors": "unmuted errors", "skip": "skipped", "pause series": "paused series",
    "resume series": "resumed series", "hold": "held jobs", "release": "released jobs",
}  # fmt: skip
"""What was done, by the action that the audit names."""


def _paused(what: str, facts: Facts) -> str:
    who = f", by {facts['paused_by']}" if facts.get("paused_by") is not None else ""
    why = f": {facts['reason']}" if facts.get("reason") is not None else ""
    return f"{what} since {moment(facts.get('paused_at'), MINUTES)}{who}{why}."


def _put_off(facts: Facts) -> str:
    why = f": {str(facts['reason']).rstrip('.')}" if facts.get("reason") is not None else ""
    return f"Its last run put it off until {moment(facts.get('run_at'))}{why}."


def _has_place(facts: Facts) -> str:
    """What of the limits of a type is used, when they let one more job start."""
    if facts.get("max_running") is None:
        return "The rate of this type lets a job start."
    return f"{facts.get('running')} of {facts['max_running']} places of this type are taken."


def amount(number: int, *, at_least: bool = False) -> str:
    """A number of jobs: `9,412`, or in whole thousands where there may be more, `10,000+`."""
    if not at_least:
        return f"{number:,}"
    return f"{number - number % 1000 if number >= 1000 else number:,}+"


EACH: Final = 1_000
"""How many jobs of each status the list of all jobs has: the last that ended, and those that are due first."""
DUE: Final = "due jobs"
NO_BACKLOG: Final = "No backlog."
NO_OTHERS: Final = "No other jobs wait."
"""What the finding of due jobs, which has this signal, says while no other finding is about them, or where one is."""
CLAIMED: Final = "claimed"
"""What is said of a job that a worker holds and has not begun; its stored status is `running`."""


def status_word(job: Job) -> str:
    """The status of a job, `claimed` while its worker has not reported that its run began."""
    return CLAIMED if job.status is Status.RUNNING and job.started_at is None else job.status.value


DRY_RUN: Final = "dry run"
"""What is said of a run that changed nothing."""


def outcome_words(outcome: RunOutcome | None, *, dry: bool | None) -> str:
    """The outcome of a run, `succeeded, dry run` of one that changed nothing; empty without an outcome."""
    return f"{outcome.value}, {DRY_RUN}" if outcome and dry else outcome.value if outcome else ""


def _pace(per_second: float) -> str:
    if per_second >= 10:
        return f"{per_second:,.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.0f}/min"


def _full(facts: Facts) -> str:
    """The places of a limit that are taken, and the job that holds its place longest."""
    words = f"Waits for a place: {facts.get('running')} of {facts.get('max_running')} of this type are taken"
    if facts.get("holder") is None or facts.get("since") is None:
        return f"{words}."
    longest = "" if facts.get("max_running") == 1 else "the longest is "
    return f"{words}; {longest}job {facts['holder']}, since {moment(facts['since'])}."


def _ahead(facts: Facts) -> str:
    number, rate, at_least = int(facts.get("ahead") or 0), facts.get("per_second"), bool(facts.get("at_least"))
    words = f"{amount(number, at_least=at_least)} due {'job is' if number == 1 else 'jobs are'} ahead"
    if not rate:
        return f"{words}; the workers of this type finished no run in the last full minute."
    if at_least:
        return f"{words}; the workers of this type finish {_pace(rate)}."
    return f"{words}; at {_pace(rate)} {about(number / rate)}."


def _blocker(facts: Facts) -> str:
    state = {None: "does not exist", "succeeded": "has expired"}.get(facts.get("status")) or f"is {facts['status']}"
    way_out = "Retry the blocker first, or enqueue this job without a blocker."
    return f"The blocker, job {facts.get('blocker')}, {state}. {way_out}"


def _members(facts: Facts) -> str:
    """How many members a job waits for, of how many, and the names of the first ones."""
    if facts.get("behind") is not None:
        return f"Waits for the end of job {facts['behind']}, which was enqueued before it under the same dedupe key."
    number, total, named = int(facts.get("open") or 0), int(facts.get("total") or 0), facts.get("names") or []
    ends = "to succeed" if facts.get("needs") == "success" else "to end"
    if not number:
        ended = "All that it waits for have ended. If it is pending, a worker releases it within seconds."
        cancelled = " If it was cancelled because one of them failed, a retry of that one revives it."
        return f"{ended}{cancelled if facts.get('needs') == 'success' else ''}"
    listed = ", ".join(map(str, named)) + (f" and {number - len(named):,} more" if number > len(named) else "")
    return f"Waits for {number:,} of {total:,} members of its flow {ends}: {listed}."


def _stays(facts: Facts) -> str:
    """What an edit leaves as it is: a job that has ended does not run by itself."""
    status = facts.get("status")
    return f" It stays {status} until it is retried." if status in {"failed", "cancelled"} else ""


def _status(facts: Facts) -> str:
    """The status, and how a job that has ended can run again."""
    status = facts.get("status")
    if status == CLAIMED:
        return "A worker has claimed the job; its run has not begun."
    again = " A retry makes it due again." if status in {"failed", "cancelled"} else ""
    return f"The job is {status}{': see its last error' if status == 'failed' else ''}.{again}"


def _earlier(facts: Facts) -> str:
    return f"It was already run again at {moment(facts.get('at'))} by {facts.get('actor')}, as {facts.get('earlier')}."


def _asked(what: str, facts: Facts) -> str:
    return f"{what} was asked for at {moment(facts.get('asked_at'))} by {facts.get('asked_by')}. Wait for its result."


def _verb(facts: Facts) -> str:
    """What somebody did to the job, as the audit knows it."""
    action = facts.get("action")
    return f"was {PAST[action] if action in {'edit', 'cancel', 'delete', 'retry', 'restore'} else 'changed'}"


def _changed(facts: Facts) -> str:
    deed = f"{_verb(facts)} by {facts.get('actor')}" if facts.get("action") else "changed"
    return f"It {deed} before a worker took it. {TAKEN_BACK}"


def _by(facts: Facts, deed: str) -> str:
    """A sentence's beginning with who did this and when, if the audit knows."""
    if facts.get("actor") is None:
        return deed
    return f"{deed} by {facts['actor']} at {moment(facts.get('done_at'))}"


def _changed_since(facts: Facts) -> str:
    deed = _verb(facts) if facts.get("action") else "has changed"
    return f"{_by(facts, f'It {deed}')} and is now {facts.get('status')}. Refresh, then decide."


def _held(facts: Facts) -> str:
    cause = f"{sentence(str(facts['held_by']), facts)} " if facts.get("held_by") else ""
    return f"{cause}{TAKEN_BACK} It is as it was."


def _paused_alone(facts: Facts) -> str:
    return f'This series is paused. "jobdeck series resume {facts.get("job")}" resumes it.'


def _was_paused(facts: Facts) -> str:
    ends = "This run ends as usual; after it," if facts.get("status") == "running" else "Paused:"
    return f"{ends} it does not run until somebody resumes it."


TAKEN_BACK: Final = "The request to run it was taken back."

ACTIONS: Final[Mapping[str, Sentence]] = MappingProxyType(
    {
        # refusals
        "retry-running": "A worker holds it. Cancel it first, or wait until it ends.",
        "delete-running": "A worker holds it. Cancel it first, then delete it.",
        "edit-running": "A worker holds it. Cancel it first, then edit it.",
        "cancel-requested": lambda facts: f"{_by(facts, 'It has already been asked to cancel')}.",
        "cancel-succeeded": "It has succeeded; there is nothing to cancel.",
        "already-cancelled": lambda facts: f"{_by(facts, 'It was already cancelled')}.",
        "edit-succeeded": "It has succeeded. Enqueue a new job instead.",
        "not-in-queue": "This job is no longer in the queue.",
        "has-succeeded": 'It has succeeded and left the queue. "jobdeck run-again {job}" runs it again.',
        "has-succeeded-since": 'It has changed and is now succeeded. "jobdeck run-again {job}" runs it again.',
        "not-succeeded": "It is {state}. Only a job that has succeeded is run again; retry this one.",
        "no-success": "It did not succeed and leave the queue in the last 30 days, so it cannot be run again.",
        "copy-open": "Job {holder}, a copy of it, is already pending or running.",
        "not-in-trash": "It is not in the trash: not deleted, restored, or older than 7 days.",
        "is-deleted": lambda facts: f"{_by(facts, 'It has been deleted')}. Restore it first.",
        "has-changed": _changed_since,
        "key-held": "Job {holder} with the same dedupe key is already pending or running.",
        "key-taken": "Another job with the same dedupe key was faster.",
        "key-locked": "Another transaction enqueues a job with the same dedupe key. Try again once it has ended.",
        "hopeless-blocker": _blocker,
        "not-needed": "It is for the failure of a member of its flow, and all that it waited for succeeded.",
        "flow-final": 'The failure callback "{callback}" has run; its flow is final after that. Enqueue a new flow.',
        "no-interval": "It is recurring but has no interval. Edit it to set one, then retry it.",
        "not-editable": "{names} cannot be edited.",
        "no-changes": "No changes were given.",
        "bad-schedule": "A schedule has one of minutes, seconds and a cron expression with zone and slots.",
        "bad-interval": "The interval of a recurring job must be 1 minute or more.",
        "member-recurs": "It is a member of a flow, for whose end others may wait, so it cannot recur.",
        "blocker-recurs": "A member of a flow waits for its end, so it cannot recur.",
        "bad-payload": "A payload must be a JSON object.",
        "bad-due-time": "A job needs a due time.",
        "bad-time": "A due time and an expiry must be between the years 1 and 9999.",
        "bad-key": "A concurrency key may have 1,000 bytes, and that of this payload is longer.",
        "is-locked": "Another session has locked it. Nothing was changed; try again.",
        "bad-priority": f"A priority must be between {LEAST_PRIORITY} and {MOST_PRIORITY}.",
        "bad-attempts": "A job needs at least one attempt.",
        "bad-timeout": "The timeout of a job is more than 0 seconds and at most 366 days.",
        "stuck-no-more": "Its worker or the reaper was faster; nothing was changed.",
        "not-stuck": "Not stuck: a stuck job has run for more than {older_than} and has an expired lease.",
        "key-held-create": "Job {holder} with the same dedupe key is already {state}. Nothing would be enqueued.",
        "not-admitted": "{sentence}",
        "former-not-kept": "Its former payload is no longer kept. Edit the job to set one.",
        "skip-once": "It is not recurring, so there is no run after the next one. Cancel it instead.",
        "skip-running": "A worker holds it. Skip its next run when this one has ended.",
        "skip-ended": "It is {status}, so it has no next run.",
        "skip-without-slots": "Its slots are used up. A worker writes more within seconds; then skip it again.",
        "skip-last": "The series expires before the run after the next one. Cancel it instead.",
        "series-paused": _paused_alone,
        "pause-once": "It is not recurring. Cancel it instead, or pause its task type.",
        "pause-ended": "It is {status}, so it has no next run.",
        "pause-blocked": "It waits for job {blocker} and does not run before that one succeeds. Pause it then.",
        "already-paused": "It is already paused.",
        "not-paused": "It is not paused by itself. Its task type or everything may be.",
        "canary-open": lambda facts: _asked("It", facts),
        "canary-of-group": lambda facts: _asked(f"Canary {facts.get('canary_job')} of the same errors", facts),
        "canary-was-faster": "Another canary of the same errors was asked for at this moment. Wait for its result.",
        "type-left-to-another": (
            "The type {task_type} is set aside for another runner, so no worker may run it. Nothing was changed."
        ),
        "canary-no-worker": 'No live worker handles {task_type}. Nothing was changed. Start one: "jobdeck worker".',
        # what would be done
        "would-be-canary": "The next worker that handles it would run it.",
        "would-retry": "It would be due now.",
        "would-run-again": "A copy would be enqueued.",
        "would-run-once-more": lambda facts: f"A copy would be enqueued. {_earlier(facts)}",
        "would-cancel": "It would be cancelled.",
        "would-ask-to-cancel": "It would be asked to cancel.",
        "would-delete": "It would be deleted.",
        "would-restore": "It would be restored as {status}.",
        "would-edit": lambda facts: f"It would be changed.{_stays(facts)}",
        "would-skip": lambda facts: f"It would run next at {moment(facts.get('run_at'), MINUTES)}.",
        "would-pause": "It would not run until somebody resumes it.",
        "would-resume": lambda facts: f"It would run next at {moment(facts.get('run_at'), MINUTES)}.",
        "would-enqueue": "The job would be enqueued.",
        "is-stuck": lambda facts: (
            f"Stuck since {moment(facts.get('expired_at'))}: the lease of {facts.get('worker')} expired."
        ),
        # what was done
        "canary-asked": "The next worker that handles it runs it. If none takes it within a minute, it stays as it is.",
        "canary-asked-held": "The next worker that handles it runs it once, although a hold keeps it.",
        "due-now": "Due now.",
        "due-held": "Due now, but a hold keeps it from starting.",
        "due-once": "Due now, for one run: the recurring job had expired.",
        "due-in-line": "Due now, behind another job with its concurrency key.",
        "due-blocked": "Due now, but waits for job {blocker}.",
        "enqueued-again": "Enqueued again as {copy}.",
        "enqueued-once-more": lambda facts: f"Enqueued again as {facts.get('copy')}. {_earlier(facts)}",
        "was-cancelled": "Cancelled.",
        "asked-to-cancel": "Asked to cancel; the job ends when its handler stops.",
        "was-deleted": "Deleted; it can be restored for 7 days.",
        "was-restored": "Restored as {status}.",
        "was-edited": lambda facts: f"Changed.{_stays(facts)}",
        "was-reverted": "Has its former payload again.",
        "was-skipped": lambda facts: f"Skipped. It runs next at {moment(facts.get('run_at'), MINUTES)}.",
        "was-paused": _was_paused,
        "was-resumed": lambda facts: f"Resumed. It runs next at {moment(facts.get('run_at'), MINUTES)}.",
        "nothing-to-change": "Nothing to change.",
        "marked-failed": "Marked failed.",
        "cycle-marked-failed": "The cycle was marked failed; the series continues at its next slot.",
        "cancelled-as-requested": "Cancelled, as requested before.",
    }
)
"""What an action on a job answers."""

CLAUSES: Final[Mapping[str, Sentence]] = MappingProxyType(
    {
        "has-status": _status,
        "no-settings": 'The settings row is missing, so no job is claimed. Run "jobdeck resume".',
        "queue-held": "No worker takes jobs: the queue is held by {who}.",
        "processing-on": "Automatic processing is on.",
        "processing-off": lambda facts: _paused("Automatic processing has been off", facts),
        "type-open": "The type {task_type} is not paused.",
        "type-paused": lambda facts: _paused(f"The type {facts.get('task_type')} has been paused", facts),
        "queue-paused": lambda facts: _paused(f"The queue {facts.get('queue')} has been paused", facts),
        "type-set-aside": lambda facts: _paused(
            f"The type {facts.get('task_type')} has been set aside for another runner", facts
        ),
        "no-worker": 'No worker was seen in the last minute. Start one: "jobdeck worker".',
        "no-worker-for-type": "{workers} workers are alive, but none handles this type.",
        "one-worker": "The one live worker handles this type.",
        "some-workers": "{handling} of {workers} live workers handle this type.",
        "due-since": lambda facts: f"It has been due since {moment(facts.get('run_at'))}.",
        "no-slots": (
            "Its slots are used up, so it is due at no time. A worker writes more within seconds, unless it cannot "
            "read the cron expression: then the job's error says why."
        ),
        "due-later": lambda facts: f"It is due at {moment(facts.get('run_at'))}.",
        "put-off": _put_off,
        "never-expires": "Never expires.",
        "expires-later": lambda facts: f"Expires at {moment(facts.get('expires_at'))}.",
        "has-expired": lambda facts: f"Expired at {moment(facts.get('expires_at'))}.",
        "no-blocker": "Depends on no other job.",
        "waits-for-blocker": "Waits for job {blocker} to succeed; its status is {status}.",
        "waits-for-members": _members,
        "no-concurrency-key": "No concurrency limit.",
        "paused-alone": _paused_alone,
        "concurrency-key-busy": "Job {holder} holds the same concurrency key.",
        "concurrency-key-shared": "{running} of {max_per_key} places of the same concurrency key are taken.",
        "lets-others-pass": (
            "No job of this type can run now, so the next one with the same concurrency key goes first. This job keeps "
            "its place."
        ),
        "behind-in-line": lambda facts: (
            f"{f'Job {first}' if (first := facts.get('goes_first')) else 'Another job'} with the same key goes first."
        ),
        "concurrency-key-free": "No job holds the same concurrency key.",
        "type-full": _full,
        "type-rate": "Waits for the rate: next in {seconds} s.",
        "type-has-place": _has_place,
        "key-rate": "Waits for the rate of its key: next in {seconds} s.",
        "key-has-place": "The rate of its key lets it start.",
        "start-refused": lambda facts: (
            f"The database refuses to start it: {facts.get('error')}. Look for a trigger or a constraint of the "
            f"application. A worker tries it again from {moment(facts.get('retry_at'))} on."
        ),
        "is-held": lambda facts: (
            _paused(f"Hold {facts.get('hold')} by {facts.get('key')} keeps it", facts) + " See `jobdeck hold`."
        ),
        "canary-requested": lambda facts: (
            f"{facts.get('asked_by')} asked at {moment(facts.get('asked_at'))} to run it next. No pause holds it."
        ),
        "canary-free": "Nothing holds it: a worker that handles its type takes it at its next claim.",
        "slots-busy": slot_words,
        "slot-free": slot_words,
        "others-ahead": _ahead,
        "none-ahead": "No due job is ahead.",
    }
)
"""The evidence for the clauses of the claim."""

CANARIES: Final[Mapping[str, Sentence]] = MappingProxyType(
    {
        "canary-waits": "Waiting for a worker to take it.",
        "canary-runs": "Running.",
        "canary-not-taken": f"No worker took it within a minute. {TAKEN_BACK} It is as it was.",
        "canary-changed": _changed,
        "canary-vanished": "Its run is no longer in the history.",
        "canary-held": _held,
        "canary-ended": "Its run has ended.",
    }
)
"""What has become of a request to run a job as a canary, unless its run has ended."""

SENTENCES: Final[Mapping[str, Sentence]] = MappingProxyType({**ACTIONS, **CLAUSES, **CANARIES})


class _Named(dict[str, Any]):
    """Facts for a template; a newer database may leave some out."""

    def __missing__(self, name: str) -> str:
        return "?"


def sentence(code: str, facts: Facts | None = None) -> str:
    """The sentence for a code; for one that only a newer database knows, the code in words."""
    made = SENTENCES.get(code)
    if made is None:
        return f"{code.replace('-', ' ').capitalize()}."
    said = made.format_map(_Named(facts or {})) if isinstance(made, str) else made(facts or {})
    ran = (facts or {}).get("callback") if code != "flow-final" else None
    return f'{said} The failure callback "{ran}" of its flow has run already.' if ran is not None else said


def result(
    job_id: UUID, code: str, *, ok: bool, status: Status | None = None, version: int | None = None, **facts: object
) -> ActionResult:
    """The answer for one id of an action, with the sentence for its code."""
    return ActionResult(job_id, ok, sentence(code, facts), status, version, code)
