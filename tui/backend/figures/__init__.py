"""The parts of the backend behind the pages of types, trends and series."""
