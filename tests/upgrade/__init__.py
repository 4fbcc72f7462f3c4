"""Databases of the versions before, brought up to the next one."""
