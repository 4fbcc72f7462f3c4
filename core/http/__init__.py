"""The HTTP server. It authenticates each request by a secret or a signature before it does anything else.

`app` routes a request and turns it into a `Call`. What an endpoint does is a plain function in `cron`, `metrics` or a
plugin, and runs in a thread. `clients` sets limits for clients; `server` starts and stops all of it.
"""
