"""Jobdeck in a Django project: `"jobdeck.django"` in `INSTALLED_APPS`. Needs the extra `django`.

The queue lives in the database of `DATABASES` that the setting `JOBDECK_DATABASE` names ("default" without it), in the
schema of `JOBDECK_SCHEMA`. `manage.py migrate` installs it, `manage.py jobdeck …` is the program `jobdeck` on it, and
`jobdeck.django.backend.JobdeckBackend` is a backend for `TASKS` of Django 6. `docs/django.md` is a walk through it.
"""
