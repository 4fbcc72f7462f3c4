"""Version 6 of the queue's schema, the first one."""

from django.db import migrations

from jobdeck.django.schema import Schema


class Migration(migrations.Migration):
    """Installs the queue."""

    dependencies = ()
    operations = (Schema(6),)
