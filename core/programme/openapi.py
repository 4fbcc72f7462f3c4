"""The webhooks in OpenAPI's words."""

from __future__ import annotations

from jobdeck.core.http.openapi import COUNT, REFUSED, Json, responses
from jobdeck.core.programme import webhooks
from jobdeck.core.programme.vendors import email_wire, sms_wire


def describe() -> Json:
    """The path item of each webhook."""
    return {webhooks.SENDGRID_PATH: {"post": _sendgrid()}, webhooks.TWILIO_PATH: {"post": _twilio()}}


def _sendgrid() -> Json:
    event = {
        "type": "object",
        "required": ["event", "timestamp"],
        "properties": {
            "event": {"type": "string"},
            "timestamp": {"type": "integer"},
            "email": {"type": "string"},
            "sg_event_id": {"type": "string"},
            "sg_message_id": {"type": "string"},
            "type": {"type": "string"},
            "reason": {"type": "string"},
        },
    }
    answer = {
        "type": "object",
        "required": ["ok", "processed", "new", "ignored"],
        "properties": {"ok": {"const": True}, "processed": COUNT, "new": COUNT, "ignored": COUNT},
    }
    return {
        "summary": "Delivery events from SendGrid's Event Webhook",
        "operationId": "sendgridEvents",
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}}
            for name in (email_wire.SIGNATURE, email_wire.TIMESTAMP)
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "array", "items": event}}},
        },
        "responses": responses("Kept, each once.", answer, 400, 401, 408, 413, 414, 503),
    }


def _twilio() -> Json:
    form = {
        "type": "object",
        "required": list(sms_wire.REQUIRED),
        "properties": {name: {"type": "string", "pattern": f"^({form})$"} for name, form in sms_wire.FORMS.items()},
        "additionalProperties": False,
    }
    return {
        "summary": "Status callbacks and answers from Twilio",
        "operationId": "twilioStatus",
        "parameters": [{"name": "X-Twilio-Signature", "in": "header", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "200": {"description": "Kept; there is nothing to send back.", "content": {"text/xml": {}}},
            **{str(status): REFUSED for status in (400, 401, 408, 413, 414, 503)},
        },
    }
