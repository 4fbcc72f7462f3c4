"""What the tests of an application use; `jobdeck.testing` offers it."""
