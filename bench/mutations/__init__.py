"""Wrong changes of the code that a test has to notice."""
