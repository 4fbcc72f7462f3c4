"""The form that creates and edits a job, built from the model of its payload."""
