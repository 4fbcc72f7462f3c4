"""What a worker would have done in the place of the earlier runner, while that one has the queue."""
