"""Whether the queue does its work: the signals of the health verdict."""
