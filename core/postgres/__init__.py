"""Connections to Postgres, and the embedded Postgres."""
