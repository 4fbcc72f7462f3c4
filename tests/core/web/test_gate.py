"""Who is let in: by name, by origin, by token and by cookie."""

from __future__ import annotations

import pytest

from jobdeck.core.errors import Refused, UsageError
from jobdeck.core.web.gate import Gate, checked_host


@pytest.fixture
def gate() -> Gate:
    made = Gate("127.0.0.1")
    made.listens_at(8090)
    return made


def token_of(gate: Gate) -> str:
    return gate.address.partition("token=")[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_an_address_of_this_machine_needs_no_permission(host: str) -> None:
    assert checked_host(host, beyond=False) is False


def test_an_address_that_others_reach_needs_permission() -> None:
    with pytest.raises(Refused, match="no TLS"):
        checked_host("192.0.2.1", beyond=False)
    assert checked_host("192.0.2.1", beyond=True) is True


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "", "127.0.0.1:80"])  # noqa: S104 -- refused here
def test_what_is_not_one_address_is_refused(host: str) -> None:
    with pytest.raises(UsageError):
        checked_host(host, beyond=True)


def test_a_token_lets_in_once(gate: Gate) -> None:
    first = token_of(gate)
    assert gate.spends(first)
    assert not gate.spends(first)
    assert gate.spends(token_of(gate))
    assert token_of(gate) != first


@pytest.mark.parametrize("wrong", ["", "x", "é", "\udcff"])
def test_a_wrong_token_or_cookie_opens_nothing_and_spends_nothing(gate: Gate, wrong: str) -> None:
    before = token_of(gate)
    assert not gate.spends(wrong)
    assert not gate.knows(wrong)
    assert not gate.knows(before)
    assert not gate.spends(gate.cookie)
    assert token_of(gate) == before


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost:8090", "LOCALHOST:8090", "[::1]:8090"])
def test_every_name_of_this_machine_is_known(gate: Gate, host: str) -> None:
    assert gate.refusal({"Host": host}) is None
    assert gate.refusal({"Host": host, "Origin": f"http://{host}"}) is None


@pytest.mark.parametrize("host", ["evil.example:8090", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8090", ""])
def test_a_name_that_somebody_else_points_here_is_refused(gate: Gate, host: str) -> None:
    assert gate.refusal({"Host": host}) == "This server has another address."


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:8091", "https://127.0.0.1:8090", "http://localhost:8090"],
)
def test_a_request_of_another_page_is_refused(gate: Gate, origin: str) -> None:
    headers = {"Host": "127.0.0.1:8090", "Origin": origin}
    assert gate.refusal(headers) == "This request comes from another page."
    assert not gate.is_from_our_page(headers)


def test_an_address_beyond_this_machine_is_the_only_name() -> None:
    gate = Gate("192.0.2.1")
    gate.listens_at(8090)
    assert gate.refusal({"Host": "192.0.2.1:8090"}) is None
    assert gate.refusal({"Host": "localhost:8090"}) is not None


def test_an_address_of_ip_6_is_written_in_brackets() -> None:
    gate = Gate("::1")
    gate.listens_at(8090)
    assert gate.address.startswith("http://[::1]:8090/")
    assert gate.refusal({"Host": "[::1]:8090"}) is None


def test_two_servers_share_no_secret() -> None:
    one, other = Gate("127.0.0.1"), Gate("127.0.0.1")
    assert not one.knows(other.cookie)
    assert one.place != other.place
    assert not one.spends(token_of(other))
