"""Every maker of text, with hostile values in all that it is given: no control character comes out of any."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.content import Content

from jobdeck.core.errors import DatabaseUnreachable, InvalidPayload
from jobdeck.core.model import ActionResult, Enqueued, Filter, Job
from jobdeck.core.queue.requests import Wanted, edit_twin, enqueue_twin
from jobdeck.core.redact import clean, harmless_json, redact, safe_error, scrub
from jobdeck.tui import commands
from jobdeck.tui.actions import key_of
from jobdeck.tui.backend.poller import Link, LinkState
from jobdeck.tui.backend.protocol import Request
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.form import wording
from jobdeck.tui.format import fit, job_json, middle, one_line, payload_summary, shown, wrapped
from jobdeck.tui.screens.dialogs import confirm, processing, questions, quick_sync
from jobdeck.tui.screens.pages import bulk
from jobdeck.tui.shape import Shape
from jobdeck.tui.text import audit as text_audit
from jobdeck.tui.text import cron_health, errors, job_detail, workers
from jobdeck.tui.text.first import top
from jobdeck.tui.widgets import status_bar
from jobdeck.tui.widgets.jobs.cells import CELLS, Moment, cell
from tests.support.examples import examples
from tests.tui.fake import NOW
from tests.tui.fuzzed import FuzzedBackend
from tests.tui.hostile import PIECES, Fuzz, harmful

WIDTHS: Final = (60, 80, 200)
EIGHT_HOURS: Final = timedelta(hours=8)
TEXTS: Final = st.lists(
    st.sampled_from([piece for pieces in PIECES for piece in pieces]) | st.characters(exclude_categories=()),
    max_size=30,
).map("".join)


def status_texts(deck: FuzzedBackend) -> Iterator[object]:
    view, text = deck.view(Request(Filter())), deck.fuzz.text
    lost = Link(LinkState.DISCONNECTED, error=text())
    for width in WIDTHS:
        for link in (Link(LinkState.CONNECTED), lost):
            yield status_bar.header(status_bar.Bar(NOW, view, link, text(), label=text()), width)
            yield status_bar.header(status_bar.Bar(NOW, None, link, text(), label=text()), width)
        yield status_bar.banner(view, Link(LinkState.CONNECTED), 0.0, NOW, width=width)
    yield from (top.top(view, None, Shape(width, height), key=key_of) for width in WIDTHS for height in (24, 50))
    for job in deck.jobs:
        yield status_bar.peek(job, 1, "1/1", ranging=False)
        for name in CELLS:
            yield cell(name, job, 40, Moment(NOW))


def detail_texts(deck: FuzzedBackend) -> Iterator[object]:
    for job in deck.jobs[:6]:
        yield job_detail.title(job, NOW)
        for revealed in (False, True):
            for run in (None, 3):
                page = job_detail.Page(
                    job, deck.detail(job.id), NOW, revealed=revealed, run=run, recipients=deck.recipients(job.id)
                )
                yield job_detail.left(page)
                yield job_detail.right(page)


def page_texts(deck: FuzzedBackend) -> Iterator[object]:
    trends, found = deck.errors(()).trends, deck.evidence.worker_report()
    cron, audit = deck.evidence.cron(), deck.evidence.audit(EIGHT_HOURS)
    yield cron_health.verdict(cron)
    yield workers.summary(found)
    for width in WIDTHS:
        yield cron_health.lines(cron, {}, width)
        yield workers.lines(found, width)
        yield text_audit.lines(audit, width)
        for trend in trends:
            yield errors.line(trend, NOW, errors.layout(trends, width), None)
            yield errors.about(trend, NOW, width, None, [])


def form_texts(deck: FuzzedBackend) -> Iterator[object]:
    text = deck.fuzz.text
    yield wording.rehearsed(deck.creating.rehearse(wanted(deck.jobs[0]), None))
    for job in deck.jobs[:20]:
        yield wording.outcome(Enqueued(job, created=True))
        yield wording.outcome(Enqueued(job, created=False))
        yield wording.outcome(ActionResult(job.id, ok=False, message=text()))
        yield quick_sync.results([Enqueued(job, created=True), Enqueued(job, created=False)])
        yield enqueue_twin(wanted(job))
        yield edit_twin(job, wanted(job), {"payload": job.payload})
        yield commands.twin("retry", [job])
        yield commands.twin_with_payload(job, job.payload)
        yield commands.pause_twin(text(), None)


def dialog_texts(deck: FuzzedBackend) -> Iterator[object]:
    jobs = deck.jobs
    yield confirm.job_question("delete", jobs, left_out="")
    stuck = deck.cleanup(None)
    yield questions.stuck_question(stuck, {job.id: job.task_type for job in jobs})
    choice = deck.bulk.choose(Filter())
    assert choice is not None
    yield confirm.choice_question("retry", choice)
    deck.bulk.start(choice.bulk.id, "retry")
    found = deck.bulk.step(choice.bulk.id)
    answers = tuple(deck.bulk.answers(choice.bulk.id, refused=False, after=None))
    yield bulk.heading(found, bulk.BulkReport((found,), found, answers), NOW)
    for width in WIDTHS:
        yield [bulk.answer_lines(answer, width) for answer in answers]
    deck.pause(None, None)
    deck.write_anew()
    view = deck.view(Request(Filter()))
    yield processing.resume_question(view, None, NOW, None)
    yield processing.resume_question(view, deck.processing.paused_types[0].task_type, NOW, None)


def wanted(job: Job) -> Wanted:
    return Wanted(job.task_type, job.payload, dedupe_key=job.dedupe_key)


def texts_in(made: Any) -> Iterator[str]:
    """Every text in what a maker has made: lines, contents, questions."""
    if isinstance(made, str):
        yield made
    elif isinstance(made, Content):
        yield made.plain
    elif hasattr(made, "spans"):
        yield from texts_in(made.spans)
    elif isinstance(made, confirm.Question):
        yield from texts_in([made.title, made.body, made.yes, made.twin])
    elif isinstance(made, list | tuple):
        for part in made:
            yield from texts_in(part)


@pytest.mark.slow
@pytest.mark.parametrize("makers", [status_texts, detail_texts, page_texts, form_texts, dialog_texts])
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=5, deadline=None)
def test_no_maker_of_text_lets_a_control_character_through(
    makers: Callable[[FuzzedBackend], Iterable[object]], seed: int
) -> None:
    deck = FuzzedBackend(seed=seed)
    deck.write_anew()
    made = [text for found in makers(deck) for text in texts_in(found)]
    assert len(made) > 50
    assert {character for text in made for character in harmful(text)} <= {"\n", "\t"}


@given(TEXTS, st.integers(0, 120))
@settings(max_examples=examples(300), deadline=None)
def test_any_text_becomes_one_harmless_line_and_no_wider_than_it_may_be(text: str, width: int) -> None:
    line = one_line(text)
    assert not harmful(line)
    assert clean(line) == line
    for cut in (fit(line, width), middle(line, width)):
        assert not harmful(cut)
        assert cell_len(cut) <= width


@given(st.text("a\u0301\u6f22 ", max_size=80), st.integers(2, 40))
@example("\u6f22\u6f22e\u0301e\u0301" * 6, 20)
@settings(max_examples=examples(300), deadline=None)
def test_wrapped_text_is_nowhere_wider_than_it_may_be_and_nothing_of_it_is_lost(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert [line for line in lines if cell_len(line) > width] == []
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(TEXTS)
@settings(max_examples=examples(300), deadline=None)
def test_any_text_that_may_have_lines_is_harmless_but_for_them(text: str) -> None:
    for lines in (shown(text, multiline=True), clean(text, multiline=True), clean(redact(text), multiline=True)):
        assert harmful(lines) <= {"\n", "\t"}
    assert not harmful(clean(text))
    assert not harmful(safe_error(text))


@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=2), max_size=3))
@settings(max_examples=examples(200), deadline=None)
def test_any_payload_is_shown_harmlessly(payload: dict[str, Any]) -> None:
    assert not harmful(payload_summary(payload))
    assert harmful(harmless_json(payload, indent=2)) <= {"\n"}
    for text in texts_in([*scrub(payload), *scrub(payload).values()]):
        assert harmful(text) <= {"\n", "\t"}


@given(TEXTS)
@settings(max_examples=examples(100), deadline=None)
def test_an_error_that_quotes_what_was_stored_is_told_harmlessly(text: str) -> None:
    for error in (DatabaseUnreachable(text), InvalidPayload(text), ValueError(text)):
        assert not harmful(failure("do it", error))


def test_the_hostile_texts_are_hostile() -> None:
    fuzz = Fuzz(1)
    made = [fuzz.text() for _ in range(2_000)]
    assert fuzz.count > 1_900
    assert sum(bool(harmful(text)) for text in made) > 1_000
    assert "" in made
    assert max(map(len, made)) == 5_000
    assert job_json(FuzzedBackend().jobs[0])
