"""What the pages say, as plain values."""
