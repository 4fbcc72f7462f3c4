"""Jobdeck: a Postgres job queue, its worker and its terminal dashboard.

The code lies in `jobdeck.core` and `jobdeck.tui`. In a checkout both are links to the folders `core/` and `tui/`.
"""
