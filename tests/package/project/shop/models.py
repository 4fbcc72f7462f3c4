"""The orders."""

from django.db import models


class Order(models.Model):
    customer = models.IntegerField()
    booked = models.BooleanField(default=False)
    label = models.CharField(max_length=40, default="")
