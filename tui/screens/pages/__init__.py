"""The pages beside the list, one per file. None is needed for the first paint."""
