"""The ways to what `bench/door.py --attack` attacks: nginx with the file of deploy/proxy, and the browser's server."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from door_attack import asked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
NGINX = shutil.which("nginx")
FILES = 1024
"""The descriptors of the browser's server, as most systems allow them."""
AROUND = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {server}
}}
"""


@contextmanager
def behind_nginx(port: int, folder: Path) -> Iterator[int]:
    """nginx in front of the server at this port, without TLS; yields its port."""
    text = (ROOT / "deploy" / "proxy" / "nginx.conf").read_text(encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = int(free.getsockname()[1])
    text = re.sub(r"^\s*ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{own};").replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    user = "user root;" if os.geteuid() == 0 else ""
    file = folder / "nginx.conf"
    file.write_text(AROUND.format(folder=folder, user=user, server=text), encoding="utf-8")
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-c", str(file), "-p", str(folder)]) as nginx:
        try:
            answered(own)
            yield own
        finally:
            nginx.terminate()


def answered(port: int) -> None:
    """Returns when the port is open."""
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"Nothing listens at port {port}.")


@contextmanager
def browser(url: str, folder: Path) -> Iterator[tuple[int, int, Path]]:
    """The server of `jobdeck web`: its process, its port, and its log. Its address is in a file of the folder."""
    address, log = folder / "address", folder / "web.log"
    environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(ROOT), "JOBDECK_LOG_FILE": str(log)}
    program = [sys.executable, "-m", "core", "web", "--port", "0", "--address-file", str(address)]
    few = ["sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"', *program]
    with subprocess.Popen(few, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as web:
        try:
            while not address.exists():
                time.sleep(0.1)
            yield web.pid, int(address.read_text(encoding="utf-8").split("/")[2].rpartition(":")[2]), log
        finally:
            web.terminate()


def person(port: int, folder: Path) -> dict[str, Callable[[], bool]]:
    """The calls of somebody who has opened the address."""
    address = (folder / "address").read_text(encoding="utf-8").strip()
    path = address.partition(f":{port}")[2]
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", path)
    cookie = (line.getresponse().getheader("Set-Cookie") or "").partition(";")[0]
    line.close()
    place = path.partition("?")[0]
    return {"person": lambda: asked(port, "GET", place, None, {"Cookie": cookie})}
