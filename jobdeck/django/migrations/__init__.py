"""One migration for each version of the queue's schema, numbered as it is."""
