"""The dashboard's screens, each with its style sheet beside it."""
