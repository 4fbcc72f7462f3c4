"""The fault sweep: real workers and a real Postgres, faults from a seed, and a judge of what is left."""
