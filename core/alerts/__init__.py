"""Alarms about the queue's health, and the events for Sentry."""
