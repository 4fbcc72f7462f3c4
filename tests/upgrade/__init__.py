"""Databases of earlier versions, brought up to this one. The files are the `schema.sql` of those versions."""
