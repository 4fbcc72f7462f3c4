"""Local vendors that speak the real wire formats and can be told to fail, and sample data."""
