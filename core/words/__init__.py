"""What the commands' text, their JSON and the dashboard say alike: values as words, and tables described once."""
