"""The task types, one file each."""
