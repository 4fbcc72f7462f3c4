"""`jobdeck web` as a real process, asked over HTTP and websockets, and by a real browser where there is one."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import aiohttp
import pytest

from jobdeck.core.queue.calls import actor
from tests.core.cli.support import environment, runner
from tests.core.web.browser import CHROMIUM, browser
from tests.core.web.site import lives, page, person, shows, site
from tests.support.people import People
from tests.support.queue import Connection
from tests.support.waiting import PATIENCE, becomes, rounds, until

PROC = Path("/proc")


@pytest.mark.slow
async def test_nobody_gets_in_without_the_token_which_works_once(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path) as served:
        async with aiohttp.ClientSession() as stranger:
            for path in ("", "socket", "textual.js", "nothing", "?token=wrong"):
                async with stranger.get(served.page + path) as answered:
                    assert answered.status == 403, path
                    assert "Set-Cookie" not in answered.headers
            async with stranger.get(f"{served.origin}/") as answered:
                assert answered.status == 403
            async with stranger.head(served.address) as answered:
                assert answered.status == 403
        first = served.address
        assert stat.S_IMODE((tmp_path / "address").stat().st_mode) == 0o600
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as somebody:
            async with somebody.get(first) as entered:
                assert entered.status == 200
                cookie = entered.headers["Set-Cookie"]
                assert {"HttpOnly", "SameSite=Strict", f"Path=/{served.page.split('/')[3]}/"} <= set(cookie.split("; "))
                assert "Server" not in entered.headers
            async with somebody.get(first) as again:
                assert again.status == 403
            async with somebody.get(served.address) as entered:
                assert entered.status == 200
        async with person(served) as somebody:
            unspent = served.address
            async with somebody.get(unspent) as entered:
                assert entered.status == 200
            assert served.address != unspent, "a token is spent also by somebody who has the cookie"


@pytest.mark.slow
async def test_the_page_loads_nothing_from_elsewhere_and_is_in_no_other_page(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path) as served:
        async with person(served) as somebody:
            async with somebody.get(served.page) as answered:
                text = await answered.text()
                assert "//" not in text.replace(f"ws://{served.origin.split('/')[2]}/", "")
                policy = answered.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "frame-ancestors 'none'" in policy
                assert answered.headers["Cache-Control"] == "no-store"
            for name in ("textual.js", "page.js", "xterm.css", "style.css", "mono.ttf"):
                async with somebody.get(served.page + name) as answered:
                    assert answered.status == 200, name
            for name in ("background.png", "..%2F..%2Fserver.py", "%2Fetc%2Fpasswd"):
                async with somebody.get(served.page + name) as answered:
                    assert answered.status == 404, name
            async with somebody.post(served.page, data=b"x") as answered:
                assert answered.status == 405


@pytest.mark.slow
async def test_with_the_cookie_another_name_or_page_is_refused_still(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path) as served:
        async with person(served) as somebody:
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
                async with somebody.get(served.page, headers=headers) as answered:
                    assert answered.status == 403
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await somebody.ws_connect(f"{served.page}socket", headers=headers)
                assert refused.value.status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await somebody.ws_connect(f"{served.page}socket")  # no browser leaves out the origin
            assert refused.value.status == 403
        assert served.dashboards == []


@pytest.mark.slow
async def test_a_page_is_a_dashboard_which_ends_with_it(conn: Connection, database_url: str, tmp_path: Path) -> None:
    conn.add("cli_echo", payload={"message": "from the queue"})
    with site(database_url, tmp_path, "--sessions", "1") as served:
        async with person(served) as somebody:
            async with page(served, somebody, width=140) as socket:
                await shows(socket, "Jobdeck", "  operator", "cli_echo")
                await socket.send_json(["stdin", "?"])
                await shows(socket, "make jobs due now")
                await socket.send_json(["resize", {"width": 120, "height": 44}])
                await shows(socket, "\x1b[44;")  # a line that it did not have before
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await somebody.ws_connect(f"{served.page}socket", headers={"Origin": served.origin})
                assert refused.value.status == 503
                (pid,) = served.dashboards
                assert lives(pid)
                _look_for_secrets(pid, served.address, database_url)
            await becomes(lambda: not lives(pid), "the end of the dashboard")
            await becomes(lambda: "a page was closed" in served.log, "the place of the closed page")
            async with page(served, somebody) as socket:
                await shows(socket, " quit")  # keys before the first screen are lost, as in a terminal
                await socket.send_json(["stdin", "q"])
                while not socket.closed:
                    await socket.receive(timeout=PATIENCE)
        written = served.log
        assert "WARNING" not in written
        served.process.send_signal(signal.SIGTERM)
        out, err = served.process.communicate(timeout=PATIENCE)
    assert served.process.returncode == 0, err
    for secret in (*_secrets(somebody), "token="):
        assert secret not in written + out + err


def _secrets(somebody: aiohttp.ClientSession) -> list[str]:
    return [cookie.value for cookie in somebody.cookie_jar]


def _look_for_secrets(pid: int, address: str, database_url: str) -> None:
    """No argument of the dashboard's process is a secret, and its environment does not have the server's."""
    if not PROC.is_dir():
        return
    arguments = (PROC / str(pid) / "cmdline").read_bytes().decode().split("\0")
    assert arguments[1:4] == ["-P", "-m", "jobdeck.tui"]
    assert not [word for word in arguments if database_url in word or "token" in word]
    variables = (PROC / str(pid) / "environ").read_bytes().decode().split("\0")
    assert "JOBDECK_VIA=web" in variables
    assert not [word for word in variables if address.partition("token=")[2] in word]


@pytest.mark.slow
async def test_the_dashboard_has_the_role_of_the_server(database_url: str, people: People, tmp_path: Path) -> None:
    with site(people.address(database_url, "job_viewer"), tmp_path) as served:
        async with person(served) as somebody, page(served, somebody, width=140) as socket:
            await shows(socket, "  read-only")


@pytest.mark.slow
async def test_a_list_of_databases_is_the_fleet_in_the_browser_too(
    conn: Connection,
    database_url: str,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conn.add("job_of_one")
    monkeypatch.setenv("JOBDECK_DATABASES", json.dumps({"one": database_url, "two": empty_database_url}))
    with site("", tmp_path) as served:
        async with person(served) as somebody, page(served, somebody, width=140) as socket:
            await shows(socket, "Fleet of 2", " quit")
            await socket.send_json(["stdin", "\r"])
            await shows(socket, "job_of_one")
            await socket.send_json(["stdin", "q"])
            await shows(socket, "Fleet of 2", " quit")
            await socket.send_json(["stdin", "q"])
            while not socket.closed:
                await socket.receive(timeout=PATIENCE)
        (pid,) = served.dashboards
        until(lambda: not lives(pid), "the end of the fleet's process")
        assert "WARNING" not in served.log


@pytest.mark.parametrize("sent", ["no json", "[]", '["resize", {"width": "x"}]', '["resize", 5]', "5"])
@pytest.mark.slow
async def test_a_malformed_message_ends_the_connection(database_url: str, tmp_path: Path, sent: str) -> None:
    with site(database_url, tmp_path) as served:
        async with person(served) as somebody, page(served, somebody) as socket:
            await socket.send_str(sent)
            while not socket.closed:
                await socket.receive(timeout=PATIENCE)
            assert socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
        until(lambda: "a page was closed" in served.log, "the end of the page")


@pytest.mark.slow
async def test_the_server_takes_its_dashboards_along(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path) as served:
        async with person(served) as somebody, page(served, somebody) as socket:
            await shows(socket, "Jobdeck")
            (pid,) = served.dashboards
            served.process.send_signal(signal.SIGTERM)
            while not socket.closed:
                await socket.receive(timeout=PATIENCE)
        _, err = served.process.communicate(timeout=PATIENCE)
        assert served.process.returncode == 0, err
        assert not lives(pid)
        assert not (tmp_path / "address").exists()


@pytest.mark.slow
async def test_a_server_that_is_killed_leaves_no_dashboard_behind(database_url: str, tmp_path: Path) -> None:
    with site(database_url, tmp_path) as served:
        async with person(served) as somebody, page(served, somebody) as socket:
            await shows(socket, "Jobdeck")
            (pid,) = served.dashboards
            served.process.kill()
            served.process.communicate(timeout=PATIENCE)
            await becomes(lambda: not lives(pid), "the end of the dashboard")


@pytest.mark.slow
def test_an_address_that_cannot_be_used_is_refused_in_a_sentence(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment(monkeypatch, tmp_path, database_url)
    jobdeck = runner(capsys)
    jobdeck("web", "--host", "192.0.2.1").refused(1, "no TLS", "--beyond-this-machine")
    jobdeck("web", "--host", "0.0.0.0").refused(2, "Give one address.")  # noqa: S104 -- refused
    jobdeck("web", "--host", "nowhere").refused(2, "is not an IP address")
    jobdeck("web", "--port", "0", "--address-file", str(tmp_path / "no" / "file")).refused(1, "cannot be written")
    with site(database_url, tmp_path) as served:
        port = served.origin.rpartition(":")[2]
        jobdeck("web", "--port", port, "--address-file", str(tmp_path / "address")).refused(1, "Nothing can listen")
        assert served.address, "the file of the server that runs is left alone"


def test_the_audit_names_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("SSH_CLIENT", raising=False)
    assert actor().endswith("@local")
    monkeypatch.setenv("JOBDECK_VIA", "web")
    assert actor().endswith("@local via web")
    monkeypatch.setenv("JOBDECK_VIA", "a forged name")
    assert actor().endswith("@local")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
async def test_a_real_browser_shows_the_dashboard_and_passes_keys_on(
    conn: Connection, database_url: str, tmp_path: Path
) -> None:
    conn.add("cli_echo")
    with site(database_url, tmp_path) as served:
        origin = served.origin
        async with browser(tmp_path) as opened:
            await opened.open(served.address)
            await opened.until("document.body && document.body.classList.contains('-first-byte')")
            await opened.until("document.activeElement.classList.contains('xterm-helper-textarea')")
            assert await opened.value("document.cookie") == ""
            assert await opened.value("location.search") == ""
            assert (await opened.picture()).startswith(b"\x89PNG")
            ours = (f"{origin}/", f"ws://{origin.split('/')[2]}/", "data:")
            assert [asked for asked in opened.asked if not asked.startswith(ours)] == []
            assert opened.complaints == []
            for _ in rounds("the end of the dashboard"):
                await opened.press("q")  # keys before the first screen are lost, as in a terminal
                if await opened.value("document.body.classList.contains('-closed')"):
                    break
