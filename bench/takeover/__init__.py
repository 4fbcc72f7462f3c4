"""The cut-over from the original application, done by script, and a judge of what is left."""
