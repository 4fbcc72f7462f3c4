"""The job queue, its worker and its commands. Nothing in here knows of terminals."""
