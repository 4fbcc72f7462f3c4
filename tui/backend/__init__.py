"""What connects the dashboard with the queue, and does the work that must not block a key press."""
