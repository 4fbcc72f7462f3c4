"""Writes to the queue: producers, leases of workers, actions of operators. Nothing else changes a job."""
