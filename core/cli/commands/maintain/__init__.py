"""Commands that install, examine and complete."""
