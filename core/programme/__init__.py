"""The competition's own data."""
