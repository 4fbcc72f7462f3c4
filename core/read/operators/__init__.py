"""Notes and mutes of operators, and what a filter would read."""
