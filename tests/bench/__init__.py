"""Tests of what measures and judges."""
