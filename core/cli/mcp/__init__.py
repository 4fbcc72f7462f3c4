"""What assistants get by the Model Context Protocol: masked reads, dry runs, and actions if they are allowed."""
