"""The dialogs, by subject."""
