"""The door in OpenAPI's words (version 3.1): what may be sent, and every status that may come back."""

from __future__ import annotations

from typing import Any, Final

from jobdeck.core.http import cron, metrics
from jobdeck.core.programme import webhooks
from jobdeck.core.programme.vendors import email_wire

Json = dict[str, Any]

_REFUSED: Final[Json] = {
    "description": "The call was not carried out, and the sentence says why.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["status", "error"],
                "properties": {"status": {"enum": ["refused", "error"]}, "error": {"type": "string"}},
            }
        }
    },
}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_CYCLE: Final[Json] = {
    "type": "object",
    "required": ["status", "processed", "succeeded", "failed", "message", "results"],
    "properties": {
        "status": {"enum": ["ok", "paused", "error"]},
        "processed": _COUNT,
        "succeeded": _COUNT,
        "failed": _COUNT,
        "message": {"type": "string"},
        "results": {"type": "array", "items": {"type": "object"}},
    },
}


def describe() -> Json:
    """The whole description."""
    run = {
        "summary": "Run one cycle of due jobs",
        "security": [{"cron": []}],
        "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10}}],
        "responses": _responses("What the cycle came to.", _CYCLE, 400, 401, 408, 413, 414, 429, 500, 503),
    }
    body = {
        "type": "object",
        "properties": {"limit": {"type": "integer", "minimum": 1, "maximum": 10}, "force": {"type": "boolean"}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Jobdeck's HTTP door", "version": "1"},
        "paths": {
            cron.PATH: {
                "get": {**run, "operationId": "runJobs"},
                "post": {
                    **run,
                    "operationId": "runJobsByPost",
                    "requestBody": {"content": {"application/json": {"schema": body}}},
                },
            },
            webhooks.SENDGRID_PATH: {"post": _sendgrid()},
            webhooks.TWILIO_PATH: {"post": _twilio()},
            metrics.HEALTHZ_PATH: {
                "get": {
                    "summary": "Whether the door and its database answer",
                    "operationId": "healthz",
                    "responses": {
                        **_responses("They do.", {"type": "object"}, 408, 413, 414),
                        "503": {"description": "They do not.", "content": {"application/json": {}}},
                    },
                }
            },
            metrics.METRICS_PATH: {
                "get": {
                    "summary": "Figures for Prometheus",
                    "operationId": "metrics",
                    "security": [{"metrics": []}],
                    "responses": {
                        "200": {"description": "All samples.", "content": {"text/plain": {}}},
                        **{str(status): _REFUSED for status in (401, 404, 408, 413, 414, 503)},
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {
                "cron": {"type": "http", "scheme": "bearer", "description": "CRON_SECRET"},
                "metrics": {"type": "http", "scheme": "bearer", "description": "JOBDECK_METRICS_TOKEN"},
            }
        },
    }


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
    told = {
        "type": "object",
        "required": ["ok", "processed", "new", "ignored"],
        "properties": {"ok": {"const": True}, "processed": _COUNT, "new": _COUNT, "ignored": _COUNT},
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
        "responses": _responses("Kept, each once.", told, 400, 401, 408, 413, 414, 503),
    }


def _twilio() -> Json:
    form = {
        "type": "object",
        "properties": {
            name: {"type": "string"} for name in ("MessageSid", "MessageStatus", "ErrorCode", "From", "To", "Body")
        },
    }
    return {
        "summary": "Status callbacks and answers from Twilio",
        "operationId": "twilioStatus",
        "parameters": [{"name": "X-Twilio-Signature", "in": "header", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}},
        "responses": {
            "200": {"description": "Kept; there is nothing to send back.", "content": {"text/xml": {}}},
            **{str(status): _REFUSED for status in (400, 401, 408, 413, 414, 503)},
        },
    }


def _responses(told: str, schema: Json, *refusals: int) -> Json:
    return {
        "200": {"description": told, "content": {"application/json": {"schema": schema}}},
        **{str(status): _REFUSED for status in refusals},
    }
