"""Messages of the competition: their recipients, how they are sent, and their outcomes."""
