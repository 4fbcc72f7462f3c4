"""The job types of the shop, as the web application knows them: their payloads, limits and handles.

The handlers are in `shop.jobs`, which only workers import, with the libraries that they need.
"""

import jobdeck


class OrderRef(jobdeck.Payload):
    order: int


class Charge(jobdeck.Payload):
    order: int
    cents: int


class ProductRef(jobdeck.Payload):
    product: int


take_from_stock = jobdeck.task("take_from_stock", OrderRef)
put_back = jobdeck.task("put_back", OrderRef)
# The payment provider takes ten calls at a time, and the mail provider five mails a second, over all workers.
charge = jobdeck.task("charge", Charge, max_running=10, max_attempts=8)
refund = jobdeck.task("refund", Charge, max_running=10, max_attempts=20)
confirm = jobdeck.task("confirm", OrderRef, rate="5/s", queue="mail")
draw_label = jobdeck.task("draw_label", OrderRef)
undo_order = jobdeck.task("undo_order", Charge)
index_product = jobdeck.task("index_product", ProductRef)
