"""Connections to Postgres, and the Postgres that Jobdeck starts itself."""
