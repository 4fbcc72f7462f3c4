"""Delivery events of the providers: pulled or received, handed on, and stored."""
