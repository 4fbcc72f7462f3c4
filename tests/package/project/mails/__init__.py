"""Mails by the tasks of Django 6."""
