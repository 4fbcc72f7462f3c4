"""The queue is in the schema `jobs` of the database of the models. SHOP_QUEUE_IN names another one of DATABASES.

With SHOP_TIME_ZONE all times are naive and of this zone.
"""

import os

import django
from psycopg.conninfo import conninfo_to_dict

os.environ.setdefault("JOBDECK_SCHEMA", "jobs")

address = conninfo_to_dict(os.environ["SHOP_DATABASE"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": address.get("dbname"),
        "USER": address.get("user"),
        "HOST": address.get("host"),
        "PORT": address.get("port"),
    },
    "notes": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
JOBDECK_DATABASE = os.environ.get("SHOP_QUEUE_IN", "default")
INSTALLED_APPS = ["jobdeck.django", "shop"]
if django.VERSION >= (6,):
    INSTALLED_APPS.append("mails")
    TASKS = {"default": {"BACKEND": "jobdeck.django.backend.JobdeckBackend", "OPTIONS": {"max_attempts": 2}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "of the example"
USE_TZ = "SHOP_TIME_ZONE" not in os.environ
if not USE_TZ:
    TIME_ZONE = os.environ["SHOP_TIME_ZONE"]
