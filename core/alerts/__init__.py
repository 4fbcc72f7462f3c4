"""Alarms, and what Sentry gets of them."""
