"""The fleet: a page with one line for each of several databases, an application of its own."""
