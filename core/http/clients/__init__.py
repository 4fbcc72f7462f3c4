"""What the HTTP server grants its clients: places and turns, time, bytes, and the proof of a secret."""
