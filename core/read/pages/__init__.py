"""Reads of whole pages of types and series, made of statistics, jobs and settings."""
