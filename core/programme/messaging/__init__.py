"""Messages of the competition: who gets which, how they are sent, and what became of them."""
