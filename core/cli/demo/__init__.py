"""What the demo runs: its job types, and its incident."""
