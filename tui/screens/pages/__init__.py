"""The pages other than the list, one per file. None is imported before the first paint."""
