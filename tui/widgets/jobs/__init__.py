"""The table of jobs, and its columns."""
