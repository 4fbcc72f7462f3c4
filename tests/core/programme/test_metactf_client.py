"""The client against the sandbox, over real HTTP and on a clock that waits for nothing."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import httpx
import pytest

from jobdeck.core.errors import PermanentError, RetryLater
from jobdeck.core.programme.sandbox.metactf import flash_event, solve
from jobdeck.core.programme.sandbox.server import Sandbox
from jobdeck.core.programme.vendors.exchange import certificates
from jobdeck.core.programme.vendors.metactf import ATTEMPTS, LARGEST_ANSWER, MetaCtfClient
from jobdeck.core.programme.vendors.metactf_errors import (
    AuthError,
    Conflict,
    ContractError,
    Forbidden,
    GamePlatformError,
    NotFound,
    RateLimited,
    RequestRejected,
    ServerError,
    TransportError,
)
from jobdeck.core.programme.vendors.metactf_wire import NewTeam, NewUser
from tests.support.context import FakeClock, sandbox_settings
from tests.support.waiting import together

NEW = NewUser(
    first_name="Zzfirst",
    last_name="Zzlast",
    email="zzmail@example.org",
    role="user",
    syned_user_id="c-1",
    syned_coach_user_id="k-1",
)
TEAM = NewTeam(
    syned_coach_user_id="k-1", syned_team_id="t-1", team_name="Foxes", affiliation="Example", division="high_school"
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sandbox(clock: FakeClock) -> Iterator[Sandbox]:
    with Sandbox(people=False, clock=clock.wall) as running:
        yield running


@pytest.fixture
def client(sandbox: Sandbox, clock: FakeClock) -> Iterator[MetaCtfClient]:
    with closing(MetaCtfClient(sandbox_settings(sandbox), time=clock.time())) as opened:
        yield opened


def _client(sandbox: Sandbox, clock: FakeClock, **settings: Any) -> MetaCtfClient:
    return MetaCtfClient(sandbox_settings(sandbox, **settings), time=clock.time())


def _paths(sandbox: Sandbox) -> list[str]:
    return [f"{seen.method} {seen.path}" for seen in sandbox.requests]


def test_every_endpoint_speaks_the_vendors_shapes(sandbox: Sandbox, client: MetaCtfClient) -> None:
    created, new = client.create_user(NEW)
    assert new
    assert created.metactf_user_status == "user_created"
    assert created.last_login_unix_timestamp is None
    account = sandbox.metactf.accounts["c-1"]
    account.status = "approved"
    account.solves = [solve(1, 100), solve(2, 200)]
    account.flash = [flash_event("Spring", 50, [solve(1, 60)])]
    scores = client.get_scores("c-1", 100)
    assert [one.challenge_solve_id for one in scores.challenge_solves] == [2]
    assert scores.total_challenges_solved == 2
    progress = client.get_flash_progress("c-1")
    assert progress.flash_ctfs[0].event_id == "Spring:50"
    team = client.create_team(TEAM)
    assert team is not None
    client.assign_member("t-1", "c-1")
    assert [one.syned_user_id for one in client.get_team_assignments("t-1").assignments] == ["c-1"]
    assert client.get_team_assignments().total_count == 1
    client.unassign_member("c-1")
    assert client.get_team_assignments("t-1").assignments == []


@pytest.mark.parametrize("code", [200, 201])
def test_a_user_is_read_with_either_success_code(sandbox: Sandbox, client: MetaCtfClient, code: int) -> None:
    sandbox.metactf.switches.get_user_status = 200 if code == 200 else 201
    sandbox.metactf.add_account("c-1")
    assert client.get_user("c-1").syned_user_id == "c-1"


@pytest.mark.parametrize(
    ("rule", "error"),
    [("401", AuthError), ("403", Forbidden), ("404", NotFound), ("409", Conflict), ("422", RequestRejected),
     ("400", RequestRejected), ("500", ServerError), ("503", ServerError), ("408", ServerError),
     ("425", ServerError), ("429", RateLimited), ("malformed", ContractError), ("schema", ContractError),
     ("302", ContractError), ("cut-before", TransportError), ("cut-after", TransportError)],
)  # fmt: skip
def test_each_failure_has_its_own_error(
    sandbox: Sandbox, client: MetaCtfClient, rule: str, error: type[GamePlatformError]
) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.rules.add(rule)
    with pytest.raises(error) as failure:
        client.get_scores("c-1")
    repeated = error in {ServerError, RateLimited, TransportError}
    assert len(sandbox.requests) == (ATTEMPTS if repeated else 1)
    assert failure.value.outage == repeated
    assert isinstance(failure.value, PermanentError) == (error in {AuthError, ContractError})
    assert isinstance(failure.value, RetryLater) == (error is RateLimited)


@pytest.mark.parametrize("rule", ["503:scores:2", "429:scores:2", "425:scores:2", "cut-before:scores:2"])
def test_a_read_succeeds_once_the_trouble_is_over(
    sandbox: Sandbox, client: MetaCtfClient, clock: FakeClock, rule: str
) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.rules.add(rule)
    assert client.get_scores("c-1").syned_user_id == "c-1"
    assert [wait for wait in clock.slept if wait > 0] == [0.25, 0.5]


@pytest.mark.parametrize("call", ["assign_member", "unassign_member"])
def test_assigning_and_unassigning_are_repeated(sandbox: Sandbox, client: MetaCtfClient, call: str) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.metactf.add_team("t-1")
    sandbox.rules.add("cut-after:/users/:1")
    getattr(client, call)(*(("t-1", "c-1") if call == "assign_member" else ("c-1",)))
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("header", ["retry-after=12", "retry-after=date:12"])
def test_retry_after_is_waited_for_in_seconds_and_as_a_date(
    sandbox: Sandbox, client: MetaCtfClient, clock: FakeClock, header: str
) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.rules.add(f"429:scores:1,{header}")
    client.get_scores("c-1")
    assert sum(clock.slept) == pytest.approx(12, abs=0.01)


def test_a_long_retry_after_ends_the_call_and_holds_everyone_back(
    sandbox: Sandbox, client: MetaCtfClient, clock: FakeClock
) -> None:
    sandbox.metactf.add_account("c-1")
    sandbox.rules.add("429:scores:1,retry-after=900")
    with pytest.raises(RateLimited) as failure:
        client.get_scores("c-1")
    assert failure.value.seconds == 900
    with pytest.raises(RateLimited) as held:
        client.get_user("c-1")
    assert 890 < held.value.seconds <= 900
    assert len(sandbox.requests) == 1
    assert clock.slept == []
    clock.sleep(900)
    assert client.get_user("c-1").syned_user_id == "c-1"


def test_an_absurd_retry_after_is_capped_at_an_hour(sandbox: Sandbox, client: MetaCtfClient) -> None:
    sandbox.rules.add("429:scores:1,retry-after=999999")
    with pytest.raises(RateLimited) as failure:
        client.get_scores("c-1")
    assert failure.value.seconds == 3600


@pytest.mark.slow
def test_requests_are_paced_after_a_short_burst(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.metactf.add_account("c-1")
    with closing(_client(sandbox, clock, GAME_PLATFORM_RATE_PER_SECOND=2)) as client:
        for _ in range(9):
            client.get_user("c-1")
    assert clock.seconds == pytest.approx(2.0)


@pytest.mark.slow
def test_a_slow_answer_ends_at_the_timeout(sandbox: Sandbox, clock: FakeClock) -> None:
    sandbox.rules.add("slow:scores,seconds=30")
    with (
        closing(_client(sandbox, clock, GAME_PLATFORM_TIMEOUT_SECONDS=2)) as client,
        pytest.raises(TransportError) as failure,
    ):
        client.get_scores("c-1")
    assert failure.value.ambiguous
    assert "ReadTimeout" in str(failure.value)


def test_a_closed_port_is_not_ambiguous_and_names_the_setting(clock: FakeClock) -> None:
    sandbox = Sandbox(people=False)
    sandbox.close()
    with closing(_client(sandbox, clock)) as client, pytest.raises(TransportError) as failure:
        client.get_user("c-1")
    assert not failure.value.ambiguous
    assert "GAME_PLATFORM_API_BASE_URL" in str(failure.value)


def test_a_creation_that_was_not_sent_is_not_looked_for(clock: FakeClock) -> None:
    sandbox = Sandbox(people=False)
    sandbox.close()
    with closing(_client(sandbox, clock)) as client, pytest.raises(TransportError, match="POST /users"):
        client.create_user(NEW)


def _mocked(sandbox: Sandbox, clock: FakeClock, answer: Callable[[httpx.Request], httpx.Response]) -> MetaCtfClient:
    return MetaCtfClient(sandbox_settings(sandbox), time=clock.time(), transport=httpx.MockTransport(answer))


def test_an_answer_that_drips_for_ever_ends_with_the_budget(sandbox: Sandbox, clock: FakeClock) -> None:
    def drip() -> Iterator[bytes]:
        while True:
            clock.sleep(5)
            yield b" "

    with (
        closing(_mocked(sandbox, clock, lambda _: httpx.Response(200, content=drip()))) as client,
        pytest.raises(TransportError, match="GAME_PLATFORM_TIMEOUT_SECONDS"),
    ):
        client.get_user("c-1")


def test_an_answer_without_end_is_cut_at_the_size_cap(sandbox: Sandbox, clock: FakeClock) -> None:
    def flood() -> Iterator[bytes]:
        while True:
            yield b" " * 1024 * 1024

    with (
        closing(_mocked(sandbox, clock, lambda _: httpx.Response(200, content=flood()))) as client,
        pytest.raises(ContractError, match="larger than"),
    ):
        client.get_user("c-1")
    assert LARGEST_ANSWER == 16


def test_an_answer_about_someone_else_is_refused(sandbox: Sandbox, client: MetaCtfClient) -> None:
    account = sandbox.metactf.add_account("c-2")
    sandbox.metactf.accounts["c-1"] = account
    for call in (client.get_user, client.get_scores):
        with pytest.raises(ContractError, match="another id"):
            call("c-1")


def test_no_flash_progress_is_an_empty_history(sandbox: Sandbox, client: MetaCtfClient) -> None:
    sandbox.metactf.add_account("c-1")
    assert client.get_flash_progress("c-1").flash_ctfs == []


def test_an_account_that_was_created_is_found_by_our_own_id(sandbox: Sandbox, client: MetaCtfClient) -> None:
    assert client.find_user(NEW.syned_user_id) is None
    created, by_us = client.create_user(NEW)
    assert by_us
    assert client.find_user(NEW.syned_user_id) == created
    assert _paths(sandbox).count("POST /users") == 1


@pytest.mark.parametrize("duplicate", ["same", "409", "422"])
def test_an_account_that_exists_is_adopted_however_the_vendor_says_so(
    sandbox: Sandbox, client: MetaCtfClient, duplicate: Any
) -> None:
    sandbox.metactf.switches.duplicate_create = duplicate
    sandbox.metactf.add_account("c-1")
    user, _ = client.create_user(NEW)
    assert user.syned_user_id == "c-1"
    assert len(sandbox.metactf.accounts) == 1


@pytest.mark.parametrize("duplicate", ["same", "409", "422"])
def test_a_clash_of_e_mail_with_another_account_is_told_without_the_address(
    sandbox: Sandbox, client: MetaCtfClient, duplicate: Any
) -> None:
    sandbox.metactf.switches.duplicate_create = duplicate
    sandbox.metactf.add_account("other", email=NEW.email)
    with pytest.raises((Conflict, RequestRejected), match=r"a conflicting account|email: already in use") as failure:
        client.create_user(NEW)
    assert "zzmail" not in str(failure.value)


@pytest.mark.parametrize("rule", ["cut-after:users:1,method=POST", "malformed:users:1,method=POST"])
def test_a_creation_that_was_carried_out_but_not_answered_is_found_and_adopted(
    sandbox: Sandbox, client: MetaCtfClient, rule: str
) -> None:
    sandbox.rules.add(rule)
    user, created = client.create_user(NEW)
    assert (user.syned_user_id, created) == ("c-1", True)
    assert _paths(sandbox) == ["POST /users", "GET /users"]


@pytest.mark.parametrize("rule", ["cut-before:users:1,method=POST", "500:users:1,method=POST"])
def test_a_creation_that_failed_is_looked_for_and_not_sent_again(
    sandbox: Sandbox, client: MetaCtfClient, rule: str
) -> None:
    sandbox.rules.add(rule)
    with pytest.raises(GamePlatformError):
        client.create_user(NEW)
    assert _paths(sandbox) == ["POST /users", "GET /users"]


def test_a_creation_that_is_rate_limited_is_not_repeated(sandbox: Sandbox, client: MetaCtfClient) -> None:
    sandbox.rules.add("429:users,method=POST")
    with pytest.raises(RateLimited):
        client.create_user(NEW)
    assert _paths(sandbox) == ["POST /users"]


@pytest.mark.parametrize(("duplicate", "refusal"), [("409", Conflict), ("422", RequestRejected)])
def test_a_team_that_exists_is_adopted_and_a_clash_is_not(
    sandbox: Sandbox, client: MetaCtfClient, duplicate: Any, refusal: type[Exception]
) -> None:
    sandbox.metactf.switches.duplicate_create = duplicate
    sandbox.metactf.add_team("t-1")
    assert client.create_team(TEAM) is None
    del sandbox.metactf.teams["t-1"]
    sandbox.rules.add(f"{duplicate}:/teams:1")
    with pytest.raises(refusal):
        client.create_team(TEAM)


def test_a_team_that_the_vendor_refuses_while_it_cannot_be_asked_is_not_adopted(
    sandbox: Sandbox, client: MetaCtfClient
) -> None:
    sandbox.rules.add("422:/teams:1")
    sandbox.rules.add("403:get_team_assignments:1")
    with pytest.raises(GamePlatformError):
        client.create_team(TEAM)


def test_problems_of_a_request_are_told_by_field_without_its_values(sandbox: Sandbox, client: MetaCtfClient) -> None:
    del sandbox
    with pytest.raises(RequestRejected, match=r"body\.syned_coach_user_id: Field required"):
        client.create_user(NEW.model_copy(update={"syned_coach_user_id": None}))


def test_values_that_the_vendor_echoes_are_masked(sandbox: Sandbox, client: MetaCtfClient) -> None:
    sandbox.rules.add("422:users:1,method=POST,detail=ZZMAIL@example.org of Zzfirst Zzlast (c-1) is a user too many")
    with pytest.raises(RequestRejected) as failure:
        client.create_user(NEW)
    assert "(c-1) is a user too many" in str(failure.value)
    assert "zz" not in str(failure.value).lower()


def test_a_request_with_a_wrong_value_says_so_without_it() -> None:
    with pytest.raises(ValueError, match="email") as failure:
        NewUser(first_name="Zzfirst", last_name="", email="zzmail", role="user", syned_user_id="c-1")
    assert "zz" not in str(failure.value).lower()


def test_the_token_is_in_no_text(sandbox: Sandbox, client: MetaCtfClient) -> None:
    sandbox.rules.add("500")
    with pytest.raises(ServerError) as failure:
        client.get_user("c-1")
    assert "sandbox-token" not in f"{failure.value!r} {client!r} {vars(client)!r}"


def test_threads_share_one_client(sandbox: Sandbox, clock: FakeClock) -> None:
    for number in range(12):
        sandbox.metactf.add_account(f"c-{number}")
    seen: list[str] = []
    with closing(_client(sandbox, clock, GAME_PLATFORM_RATE_PER_SECOND=10_000)) as client:

        def look(number: int) -> None:
            seen.append(client.get_user(f"c-{number}").syned_user_id)

        together(*(partial(look, number) for number in range(12)))
    assert sorted(seen) == sorted(sandbox.metactf.accounts)


def test_the_trusted_certificates_are_read_once_for_all_clients(
    sandbox: Sandbox, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = certificates(trust_env=False)
    assert (trusted.verify_mode, trusted.check_hostname) == (ssl.CERT_REQUIRED, True)
    monkeypatch.delattr(ssl, "create_default_context")
    for _ in range(2):
        with closing(_client(sandbox, clock)) as client:
            assert client.find_user("c-0") is None
