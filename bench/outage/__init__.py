"""An incident that is worked by script, and what it compares."""
