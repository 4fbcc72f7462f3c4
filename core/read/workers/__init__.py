"""What is read of workers."""
