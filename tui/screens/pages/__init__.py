"""The pages other than the list and that of a job, by subject. None is imported before the first paint."""
