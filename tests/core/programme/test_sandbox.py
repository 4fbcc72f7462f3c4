"""The sandbox vendor by itself: its wire format, its faults, its rules."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobdeck.core.errors import UsageError
from jobdeck.core.programme.sandbox import sample
from jobdeck.core.programme.sandbox.metactf import MetaCtf
from jobdeck.core.programme.sandbox.rules import FAULTS, Rule, Rules, parse_rule
from jobdeck.core.programme.sandbox.server import TOKEN, Sandbox
from tests.support.waiting import PATIENCE

PREFIX = "/integrations/syned/v1"


def _ask(
    sandbox: Sandbox, method: str, path: str, body: Any = None, token: str | None = TOKEN
) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.port, timeout=PATIENCE)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, PREFIX + path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        content = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(content)
    finally:
        connection.close()


def test_without_the_token_every_endpoint_but_the_index_is_refused(sandbox: Sandbox) -> None:
    assert _ask(sandbox, "GET", "/", token=None)[0] == 200
    assert _ask(sandbox, "GET", "/users?syned_user_id=c-1", token=None)[0] == 401
    assert _ask(sandbox, "POST", "/teams", {}, token="wrong")[0] == 401


def test_a_missing_field_is_a_422_in_the_vendors_shape(sandbox: Sandbox) -> None:
    status, _, body = _ask(sandbox, "GET", "/scores/get_odl_scores")
    assert status == 422
    assert body == {"detail": [{"loc": ["query", "syned_user_id"], "msg": "Field required", "type": "missing"}]}
    assert _ask(sandbox, "POST", "/users", {"first_name": "Ann"})[0] == 422
    assert _ask(sandbox, "POST", "/users", [])[0] == 422


PERSON = {"first_name": "Ann", "last_name": "Example", "email": "ann@example.org", "role": "user",
          "syned_user_id": "c-1", "syned_coach_user_id": "k-1"}  # fmt: skip


@pytest.mark.parametrize("field", ["preferred_username", "syned_school_id", "syned_region_id", "syned_coach_user_id"])
@pytest.mark.parametrize("value", [5, True, ["x"], {}])
def test_an_optional_field_that_is_no_text_is_a_422(sandbox: Sandbox, field: str, value: Any) -> None:
    status, _, body = _ask(sandbox, "POST", "/users", PERSON | {field: value})
    assert (status, body["detail"][0]["loc"]) == (422, ["body", field])
    assert sandbox.metactf.accounts == {}
    assert _ask(sandbox, "POST", "/users", PERSON | {"preferred_username": None})[0] == 201


TEAM = {"syned_coach_user_id": "k-1", "syned_team_id": "t-1", "team_name": "T", "affiliation": "A",
        "division": "college"}  # fmt: skip


@pytest.mark.parametrize(("duplicate", "status"), [("same", 201), ("409", 409), ("422", 422)])
def test_a_second_creation_of_a_team_is_answered_as_the_switch_says(
    sandbox: Sandbox, duplicate: Any, status: int
) -> None:
    sandbox.metactf.switches.duplicate_create = duplicate
    assert [_ask(sandbox, "POST", "/teams", TEAM)[0] for _ in range(2)] == [201, status]
    assert len(sandbox.metactf.teams) == 1


def test_a_team_without_members_can_be_deleted(sandbox: Sandbox) -> None:
    _ask(sandbox, "POST", "/teams", TEAM)
    account = sandbox.metactf.add_account("c-1", team="t-1")
    assert _ask(sandbox, "POST", "/teams/delete", {})[0] == 422
    assert _ask(sandbox, "POST", "/teams/delete", {"syned_team_id": "t-1"})[0] == 422
    account.team = None
    assert _ask(sandbox, "POST", "/teams/delete", {"syned_team_id": "t-1"})[0] == 200
    assert _ask(sandbox, "POST", "/teams/delete", {"syned_team_id": "t-1"})[0] == 404
    assert sandbox.metactf.teams == {}


def test_what_is_not_there_is_404_and_the_wrong_method_405(sandbox: Sandbox) -> None:
    assert _ask(sandbox, "GET", "/nothing")[0] == 404
    assert _ask(sandbox, "GET", "/teams")[0] == 405


def test_rules_can_be_changed_while_it_runs(sandbox: Sandbox) -> None:
    sandbox.metactf.add_account("c-1")
    rule = sandbox.rules.add("503:users:1,retry-after=7,detail=gone fishing")
    status, headers, body = _ask(sandbox, "GET", "/users?syned_user_id=c-1")
    assert (status, headers["retry-after"], body) == (503, "7", {"detail": "gone fishing"})
    assert _ask(sandbox, "GET", "/users?syned_user_id=c-1")[0] == 201
    rule.times = None
    assert _ask(sandbox, "GET", "/users?syned_user_id=c-1")[0] == 503
    sandbox.rules.remove(rule)
    assert _ask(sandbox, "GET", "/users?syned_user_id=c-1")[0] == 201


def test_a_line_cut_after_the_request_leaves_its_effect(sandbox: Sandbox) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.metactf.add_team("t-1")
    body = {"syned_team_id": "t-1", "syned_user_id": "c-1"}
    for fault, team in (("cut-before", None), ("cut-after", "t-1")):
        sandbox.rules.add(f"{fault}:assign:1")
        with pytest.raises(http.client.RemoteDisconnected):
            _ask(sandbox, "POST", "/users/assign_team", body)
        assert sandbox.metactf.accounts["c-1"].team == team
    assert [seen.status for seen in sandbox.requests] == [None, None]


def test_requests_are_listed_without_bodies(sandbox: Sandbox) -> None:
    _ask(sandbox, "POST", "/users", {"first_name": "Zzfirst", "syned_user_id": "c-9"})
    (seen,) = sandbox.requests
    assert (seen.method, seen.path, seen.user, seen.status, seen.mutating) == ("POST", "/users", "c-9", 422, True)
    assert "Zzfirst" not in repr(sandbox.requests)
    sandbox.forget()
    assert sandbox.requests == []


def test_two_sandboxes_with_the_sample_have_the_same_people() -> None:
    first, second = MetaCtf(lambda: 5.0), MetaCtf(lambda: 5.0)
    for vendor in (first, second):
        sample.populate(vendor)
        for _ in range(3):
            for person in list(vendor.accounts):
                vendor.answer("GET", "/scores/get_odl_scores", {"syned_user_id": person})
    assert first.accounts == second.accounts
    assert len(first.accounts) == sample.ON_PLATFORM - 1 + sample.COACHES - 1


def test_the_sample_has_solve_ids_that_collide_between_events() -> None:
    vendor = MetaCtf()
    sample.populate(vendor)
    ids = [
        [solve["challenge_solve_id"] for event in account.flash for solve in event["challenge_solves"]]
        for account in vendor.accounts.values()
    ]
    assert any(len(set(one)) < len(one) for one in ids)


def test_the_sample_lives_at_example_org() -> None:
    people = [*map(sample.coach, range(sample.COACHES)), *map(sample.competitor, range(sample.ON_PLATFORM))]
    assert all(person.email.endswith("@example.org") for person in people)
    assert len({person.email for person in people}) == len({person.id for person in people}) == len(people)


@pytest.mark.parametrize(
    ("text", "rule"),
    [("429:scores:3,retry-after=2", Rule("429", "scores", times=3, retry_after=2)),
     ("503:*:/5", Rule("503", every=5)), ("500", Rule("500")),
     ("403:scores:*,user=c-1", Rule("403", "scores", user="c-1")),
     ("cut-after:users:1,method=post", Rule("cut-after", "users", times=1, method="POST")),
     ("429,retry-after=date:9", Rule("429", retry_after=9, retry_after_as_date=True)),
     ("slow:flash,seconds=1.5", Rule("slow", "flash", seconds=1.5)), ("422,detail=a b", Rule("422", detail="a b"))],
)  # fmt: skip
def test_a_rule_is_read_as_written(text: str, rule: Rule) -> None:
    read = parse_rule(text)
    names = [name for name in Rule.__slots__ if name not in {"matched", "struck"}]
    assert [getattr(read, name) for name in names] == [getattr(rule, name) for name in names]


@pytest.mark.parametrize(
    "text",
    ["", "teapot", "200", "999", "500:a:b:c", "500:a:0", "500:a:-1", "500:a:/0", "500,user=", "500,colour=red",
     "500,seconds=x", "500,retry-after=soon", "500,method=PUT"],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match="FAULT"):
        parse_rule(text)


@given(
    st.text() | st.lists(st.sampled_from(["429", "slow", ":", ",", "=", "/", "*", "3", "user", "date"])).map("".join)
)
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except UsageError:
        return
    assert rule.fault in FAULTS or 300 <= int(rule.fault) <= 599


def test_a_rule_strikes_so_many_times_or_every_so_often() -> None:
    thrice = Rules(["500:*:3"])
    assert [thrice.strike("GET", "/x", None) is not None for _ in range(5)] == [True, True, True, False, False]
    third = Rules(["500:*:/3"])
    assert [third.strike("GET", "/x", None) is not None for _ in range(6)] == [False, False, True] * 2


def test_a_rule_is_about_its_path_person_and_method_only() -> None:
    rules = Rules(["500:scores,user=c-1,method=GET"])
    assert rules.strike("GET", "/scores/x", "c-1") is not None
    for other in (("POST", "/scores/x", "c-1"), ("GET", "/users", "c-1"), ("GET", "/scores/x", "c-2")):
        assert rules.strike(*other) is None
