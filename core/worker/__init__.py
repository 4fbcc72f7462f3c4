"""One worker process: what it claims, runs, renews, finishes and cleans up."""
