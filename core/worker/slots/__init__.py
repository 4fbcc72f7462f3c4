"""Where claimed jobs run: in threads, on an event loop, or in processes."""
