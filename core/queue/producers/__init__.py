"""What a program does through a connection of its own: enqueue jobs, wait for results, end a run."""
