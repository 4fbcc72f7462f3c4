"""`POST /api/jobs`: other programs enqueue jobs over HTTP, each with a token of its own."""
