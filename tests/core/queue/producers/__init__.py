"""Producers on every kind of connection."""
