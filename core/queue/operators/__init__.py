"""What operators leave for each other, and the edits of many payloads."""
