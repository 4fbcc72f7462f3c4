"""The form that makes and changes a job, made from the model of its payload."""
