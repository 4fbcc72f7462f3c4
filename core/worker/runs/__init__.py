"""What goes with a run: the context of an async handler, spans, and previews of what a run would do."""
