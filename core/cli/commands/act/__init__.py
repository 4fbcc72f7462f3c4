"""Commands that enqueue jobs, or change jobs and types."""
