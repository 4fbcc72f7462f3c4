"""Commands that run jobs, serve calls, pause and clean up."""
