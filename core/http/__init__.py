"""The HTTP door: what calls from outside comes in here, is known by its signature or secret, and goes no further.

`app` says which paths there are and turns a request into a `Call`; what a path does is a plain function in `cron`,
`webhooks` or `metrics`, run in a thread. `intake` and `protocol` keep strangers within limits, `server` runs it all.
"""
