"""The contents of the pages, as plain values."""
