"""The tasks: functions with Django's own decorator."""

from django.core.exceptions import PermissionDenied
from django.core.mail import send_mail
from django.tasks import TaskContext, task

from shop.models import Order


@task
def thank(order):
    send_mail("Thank you", f"For order {order}", "shop@example.org", ["customer@example.org"])
    return {"order": Order.objects.get(pk=order).pk}


@task
async def add(one, other, *, factor=1):
    return (one + other) * factor


@task(takes_context=True, priority=7)
def count_attempts(context: TaskContext):
    if context.attempt == 1:
        raise LookupError("not yet")
    return context.attempt


@task
def give_up():
    raise PermissionDenied("no such order")
