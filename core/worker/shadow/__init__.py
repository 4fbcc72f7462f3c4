"""What a run would do: previews of jobs, and of those that the earlier runner takes while it has the queue."""
