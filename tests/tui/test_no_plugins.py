"""The dashboard without plugins shows nothing of one; with a plugin of somebody else, that plugin's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobdeck.core.plugins import Found, Page, PageAction, Plugin, Preset, Search, TextField, use_plugins
from jobdeck.core.registry import Done, JobType, Payload, Registry
from jobdeck.tui.actions import offered
from jobdeck.tui.deck import Deck
from jobdeck.tui.text import playbook as text_playbook
from tests.tui.fake import FakeBackend, make_job
from tests.tui.support import LARGE, dashboard, said, shown

WORDS = re.compile(
    r"competit|coach|metactf|game.?platform|flash|sendgrid|twilio|\bsms\b|campaign|announcement|onboard|agreement"
    r"|outbox|vercel|quick.?sync|\bparents?\b",
    re.IGNORECASE,
)
SOURCE = text_playbook.source
"""The page as it is shipped; the other tests have one of their own in its place."""
CUSTOMER = "5d0c7f6a-8a55-4e4e-9a0e-000000000007"


class ReportParams(Payload):
    customer_id: str | None = None
    rows: int = 10


def run(_params: Any, _ctx: Any) -> Done:
    raise AssertionError("no run is started by a form")


REGISTRY = Registry([JobType("nightly_report", run, "Nightly Report", "Counts what was sold", ReportParams)])


@pytest.fixture
def backend() -> FakeBackend:
    backend = FakeBackend([make_job(at + 1, task_type="nightly_report") for at in range(3)])
    backend.creating.registry = REGISTRY
    return backend


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(text_playbook, "source", SOURCE)
    with use_plugins():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
async def test_without_plugins_no_page_form_or_key_names_the_competition(backend: FakeBackend) -> None:
    async with dashboard(backend, size=LARGE) as deck:
        shown = [deck.screen_text()]
        for keys in (["question_mark"], ["colon"], ["n"], ["P"], ["h"], ["e"], ["m"], ["o"], ["b"], ["l"], ["enter"],
                     ["slash"], ["colon", *"sync"]):  # fmt: skip
            await deck.press(*keys)
            shown.append(deck.screen_text())
            await deck.press("escape", "escape")
            assert deck.here == "Dashboard", keys
        for text in shown:
            assert WORDS.findall(text) == []


@pytest.mark.usefixtures("alone")
async def test_without_plugins_the_playbook_names_no_competition() -> None:
    lines = ["".join(text for text, _ in line.spans) for line in text_playbook.entries(120)]
    assert len(lines) > 100
    assert [line for line in lines if WORDS.search(line.replace("Quick Sync", "").replace("quick-sync", ""))] == []


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
async def test_without_presets_the_key_of_quick_sync_does_nothing(backend: FakeBackend) -> None:
    async with dashboard(backend, "Q") as deck:
        assert (deck.here, deck.toasts) == ("Dashboard", [])
        assert "quick.sync" not in {action.id for action in offered("list")}


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
async def test_without_plugins_a_filter_has_no_key_of_one(backend: FakeBackend) -> None:
    assert (await said(backend, "slash", *"coach:kim", "enter", size=LARGE)).startswith('Unknown filter key "coach".')


def customers(_conn: Any, text: str) -> list[Found]:
    return [Found(CUSTOMER, "Ada Lovelace", "London")] if text.lower() in f"ada lovelace {CUSTOMER}" else []


INVOICES = [("1", "Ada"), ("2", "Grace\x1b[31m")]
ORDERS = [("1", "Ada", "ada"), ("2", "Grace\x1b[31m", "grace")]
"""The last cell of each is not shown."""


def find_customers(_conn: Any, text: str) -> list[Found]:
    return [Found(name, name.title()) for name in ("ada", "grace") if text.lower() in name]


PLUGIN = Plugin(
    name="shop",
    version=1,
    filters={"customer": "customerId"},
    searches={"customerId": Search(noun="customer", plural="customers", find=customers, hint="a part of a name")},
    presets=(Preset(name="all", key="x", label="All", description="everything", task_types=("nightly_report",)),),
    pages=(
        Page(
            title="Open Invoices",
            key="I",
            columns=("number", "customer"),
            query=lambda _conn: INVOICES,
            actions={"remind": lambda _conn, row: f"Reminded {row[1]}."},
        ),
        Page(
            title="Orders",
            key="J",
            columns=("number", "customer"),
            query=lambda _conn, wanted: [one for one in ORDERS if wanted in one[2]],
            search=Search(
                noun="customer", plural="customers", find=find_customers, hint="a part of a name", empty="all"
            ),
            actions={
                "close the order": PageAction(
                    run=lambda _conn, row, answers: f"Closed {row[0]} of {row[2]}: {answers['reason']}.",
                    asks=(TextField("reason", "Reason"),),
                    about=lambda row: f"Order {row[0]}\x1b[31m.",
                    command=lambda row, answers: f"shop close {row[0]} --reason {answers['reason']}",
                ),
                "open an order": PageAction(
                    run=lambda _conn, _row, answers: f"{answers['customer']} gave ann@example.org.",
                    asks=(TextField("customer", "Customer"), TextField("reason", "Reason")),
                    about=lambda _row: "A new order.",
                    command=lambda _row, answers: f"shop open {answers['customer']}",
                    on_row=False,
                    reveals=True,
                ),
            },
            about="orders of customers",
        ),
    ),
)


@pytest.fixture
def shop(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def find(key: str, text: str) -> Sequence[Found]:
        return PLUGIN.searches[key].find(None, text)  # type: ignore[arg-type]

    monkeypatch.setattr(backend.creating, "find", find)
    with use_plugins(PLUGIN):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_a_page_of_a_plugin_is_opened_by_its_key_and_acts_on_a_row(backend: FakeBackend) -> None:
    async with dashboard(backend, "I", size=LARGE) as deck:
        assert deck.here == "TablePage"
        text = deck.screen_text()
        assert "Open Invoices" in text
        assert "2 rows" in text
        assert "\x1b" not in text
        await deck.press("j", "enter", "enter")
        assert "Reminded Grace" in deck.toasts[-1]
        await deck.press("escape", "colon", *"invoices")
        assert "open invoices" in deck.screen_text()
        await deck.press("enter")
        assert deck.here == "TablePage"


@pytest.mark.usefixtures("shop")
async def test_a_page_without_a_row_offers_no_action_on_one(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tui.test_no_plugins.INVOICES", [])
    async with dashboard(backend, "I", "enter") as deck:
        assert "There is no row under the cursor." in deck.toasts[-1]
        assert "No rows." in deck.screen_text()


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_what_the_actions_would_do_with_a_row_is_said_below_the_rows(backend: FakeBackend) -> None:
    async with dashboard(backend, "J", size=(60, 12)) as deck:
        assert [
            line.strip() for line in deck.screen_text().splitlines() if "rder" in line and "Orders" not in line
        ] == ["close the order", "Order 1\\x1b[31m."]
        assert customers_shown(deck.screen_text()) == ["Ada", "Grace"]


def customers_shown(text: str) -> list[str]:
    """The customers in the table of orders."""
    return [name for name in ("Ada", "Grace") if re.search(rf"^ \d  +{name}", text, re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_a_page_of_a_plugin_is_narrowed_down_by_its_search(backend: FakeBackend) -> None:
    async with dashboard(backend, "J") as deck:
        assert customers_shown(deck.screen_text()) == ["Ada", "Grace"]
        await deck.press("slash")
        assert "a part of a name" in deck.screen_text()
        await deck.press(*"gra", "enter")
        assert customers_shown(deck.screen_text()) == ["Grace"]
        assert "1 row  Grace" in deck.screen_text()
        await deck.press("slash", "pageup", "enter")
        assert customers_shown(deck.screen_text()) == ["Ada", "Grace"]


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_an_action_of_a_page_asks_for_its_texts_and_gets_the_whole_row(backend: FakeBackend) -> None:
    async with dashboard(backend, "J", "enter", "enter") as deck:
        assert "Order 1\\x1b[31m." in deck.screen_text()
        assert "\x1b" not in deck.screen_text()
        await deck.press("enter")
        assert "Reason is missing." in deck.screen_text()
        await deck.press(*"paid")
        assert "shop close 1 --reason paid" in deck.screen_text()
        await deck.press("enter", "enter")
        assert deck.toasts[-1] == "Closed 1 of ada: paid."


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_an_action_without_a_row_is_there_where_none_is_and_what_it_reveals_is_shown(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tui.test_no_plugins.ORDERS", [])
    async with dashboard(backend, "J", "enter") as deck:
        assert "close the order" not in deck.screen_text()
        await deck.press("enter", *"Ada", "enter", *"why", "enter", "enter")
        assert "Ada gave ann@example.org." in deck.screen_text()
        await deck.press("escape")
        assert "ann@" not in deck.screen_text()
        assert deck.here == "TablePage"


@pytest.mark.usefixtures("shop")
async def test_a_page_without_a_search_says_so(backend: FakeBackend) -> None:
    assert (await said(backend, "I", "slash")).startswith("This page has no search.")


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_a_name_behind_a_plugins_filter_key_is_looked_up(backend: FakeBackend) -> None:
    async with dashboard(backend, "slash", *"customer:", size=LARGE) as deck:
        assert "a part of a name" in deck.line("peek")
        await deck.press(*"ada", "enter")
        assert backend.requests[-1].filter.payload == ("customerId", CUSTOMER)


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_a_preset_of_a_plugin_is_enqueued_by_its_key(backend: FakeBackend) -> None:
    assert "nightly_report" in await shown(backend, "Q", "x", size=LARGE)
    assert ("quick_sync", "all") in backend.calls


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
async def test_a_field_of_a_looked_up_key_is_picked_by_name(backend: FakeBackend) -> None:
    assert "Ada Lovelace" in await shown(backend, "n", "tab", *"ada", "enter", size=LARGE)


@pytest.mark.slow
def test_no_word_of_the_competition_is_in_the_dashboards_code() -> None:
    root = Path(__file__).parents[2] / "tui"
    files = [path for path in root.rglob("*") if path.suffix in {".py", ".tcss"}]
    words = re.compile(WORDS.pattern.replace("|quick.?sync", ""), re.IGNORECASE)
    found = {str(path.relative_to(root)): words.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {path: named for path, named in found.items() if named} == {}


async def test_the_application_is_a_deck(backend: FakeBackend) -> None:
    async with dashboard(backend) as running:
        deck: Deck = running.app
        assert deck.view is not None
