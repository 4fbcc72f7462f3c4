"""Traces and metrics by OpenTelemetry: whether there are any, and what imports its API."""
