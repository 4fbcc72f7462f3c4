"""Producers on other connections than psycopg's, and results for those who wait: what `api` is made of."""
