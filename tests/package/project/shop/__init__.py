"""The example project: a shop whose orders are booked by jobs. `tests/package/test_django.py` runs it."""
