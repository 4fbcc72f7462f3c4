"""What others get of the connections: a handler a loan, a forked process nothing."""
