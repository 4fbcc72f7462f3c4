"""Reads of the queue, its history and its health. Nothing here changes a row."""
