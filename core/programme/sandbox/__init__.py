"""Local vendors that speak the real wire formats and can fail on request, and sample data."""
