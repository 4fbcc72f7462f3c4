"""What is read of runs that were lost."""
