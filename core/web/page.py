"""The page with the terminal. It loads nothing from other servers."""

from __future__ import annotations

from typing import Final

FILES: Final = {
    "textual.js": ("js/textual.js", "text/javascript"),
    "xterm.css": ("css/xterm.css", "text/css"),
    "mono.ttf": ("fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
}
"""Files of textual-serve by their names on this server, with their places in its `static` folder and their types."""

STYLE: Final = """
@font-face { font-family: "Roboto Mono"; src: url("mono.ttf"); font-weight: 100 700; }
html, body { margin: 0; height: 100%; overflow: hidden; background: #0c0c0c; color: #e0e0e0; }
body { font: 16px "Roboto Mono", monospace; }
.textual-terminal { width: 100vw; height: 100vh; }
.message { display: none; position: absolute; inset: 0; z-index: 20; background: #0c0c0c; padding: 20vh 10vw; }
body:not(.-first-byte) .starting, body.-closed .closed { display: block; }
body.-closed .starting { display: none; }
a { color: #8ab4f8; }
"""

SCRIPT: Final = """
addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
"""
"""Gives the keys to the terminal. The load handler of textual.js, which makes it, was added before."""

OWN: Final = {"style.css": (STYLE, "text/css"), "page.js": (SCRIPT, "text/javascript")}

PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Jobdeck</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="xterm.css">
<link rel="stylesheet" href="style.css">
<script src="textual.js"></script>
<script src="page.js"></script>
</head>
<body>
<div class="message starting">Starting the dashboard…</div>
<div class="message closed">The dashboard has ended, or no more can be opened. <a href="?">Open it again</a></div>
<div id="terminal" class="textual-terminal" data-session-websocket-url="%s" data-font-size="15"></div>
</body>
</html>
"""

ENTERED: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Jobdeck</title>
<meta http-equiv="refresh" content="0; url=%s">
</head>
<body><a href="%s">Open the dashboard</a></body>
</html>
"""
"""The answer to the token. It leads to the page as a page of this server, so that the browser sends the cookie."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src data:; "
    "connect-src 'self' ws://%s; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The terminal's script makes style elements of its own, so styles in the page are allowed. Nothing else is."""
