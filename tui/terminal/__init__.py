"""What the dashboard asks of the terminal and of the process."""
