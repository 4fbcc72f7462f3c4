"""A value is masked in the same way in text, in JSON and on the dashboard."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.cli import output
from jobdeck.core.redact import clean, harmless_json, scrub
from jobdeck.tui.format import JOINERS, LONGEST_LINE, job_json, one_line, payload_summary
from jobdeck.tui.text.job_detail import Page
from tests.tui.fake import NOW, make_job

PIECES: Final = (
    "jane.doe@example.org", "ja\u200bne@example.org", "kim=40example.org", "+47 900 12 345", "020 7946 0958",
    "password=hunter2", '"token": "abc def"', "postgresql://a:b@c/d", "<private>", '"<email>"', "k…@example.org",
    "\x1b[31m", "\u202e", "\n", "\r\n", "\t", "[/foo]", "é", "漢", "job 17", "2147483647", "2026-07-04T12:00:00Z",
    "01234567-1234-7234-8234-0123456789ab", "run_token=123456",
)  # fmt: skip
TEXTS: Final = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=6).map(" ".join)
KEYS: Final = TEXTS | st.sampled_from(["password", "full_name", "to", "phone", "runToken", "coachId"])
VALUES: Final = st.recursive(
    TEXTS | st.integers(0, 10**11) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)


@given(TEXTS, st.dictionaries(KEYS, VALUES, max_size=3))
def test_text_json_and_dashboard_mask_a_job_alike(text: str, payload: dict[str, Any]) -> None:
    job = make_job(1, payload=payload, output=payload, last_error=text, task_type=text, dedupe_key=text)
    printed = json.loads(output.as_json({"jobs": [job]}))["jobs"][0]
    assert job_json(job) == printed
    assert printed["payload"] == printed["output"] == scrub(payload)
    if payload:
        assert output.payload(payload, 100_000) == clean(json.dumps(printed["payload"], ensure_ascii=False))
        shown = Page(job, None, NOW, width=10_000).json(payload).plain
        # The dashboard leaves out what joins characters, because terminals differ in how wide the result is.
        written = harmless_json(printed["payload"], indent=2).translate(JOINERS)
        assert shown.splitlines()[:900] == written.splitlines()[:900]
    for name in ("last_error", "task_type", "dedupe_key"):
        masked = printed[name]
        if text:
            assert output.cut(text, 100_000) == clean(masked).strip()
            assert output.table(("A",), [(text,)])[1] == clean(masked).rstrip()
        if len(text) < LONGEST_LINE:
            assert one_line(text) == " ".join(masked.translate(JOINERS).split())


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_what_is_private_in_a_payload_is_in_none_of_its_forms(payload: dict[str, Any]) -> None:
    job = make_job(1, payload=payload)
    forms = [payload_summary(payload), output.payload(payload), json.dumps(job_json(job)), json.dumps(scrub(payload))]
    for form in forms:
        for word in ("jane", "hunter2", "900 12", "7946", "a:b@"):
            assert word not in form
