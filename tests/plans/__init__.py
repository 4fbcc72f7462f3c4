"""What the queue's statements may cost, whatever the queue holds; `python -m tests.plans` tries a queue of any size."""
