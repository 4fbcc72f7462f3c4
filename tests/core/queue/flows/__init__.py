"""Flows: jobs that wait for several others."""
