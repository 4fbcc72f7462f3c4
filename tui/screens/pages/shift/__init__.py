"""What the pages of operators and of errors do with notes and mutes. None is imported before the first paint."""
