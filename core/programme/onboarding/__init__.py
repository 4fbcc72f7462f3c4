"""Accounts of competitors and coaches on the game platform."""
