"""What one shift leaves to the next: notes, and groups of errors that are muted."""
