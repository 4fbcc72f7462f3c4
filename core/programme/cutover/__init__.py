"""The cut-over from the original application: what an installation changes, its check list, and its two ends."""
