"""The OpenAPI 3.1 document of the HTTP server: requests, and every status that a response can have."""

from __future__ import annotations

from typing import Any, Final

from jobdeck.core.http import cron, metrics
from jobdeck.core.http.producers import enqueue, wire
from jobdeck.core.plugins import load_plugins

Json = dict[str, Any]

REFUSED: Final[Json] = {
    "description": "The request was refused. `error` gives the reason.",
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
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_CYCLE: Final[Json] = {
    "type": "object",
    "required": ["status", "processed", "succeeded", "failed", "message", "results"],
    "properties": {
        "status": {"enum": ["ok", "paused", "error"]},
        "processed": COUNT,
        "succeeded": COUNT,
        "failed": COUNT,
        "message": {"type": "string"},
        "results": {"type": "array", "items": {"type": "object"}},
    },
}


_ASKED: Final[Json] = {
    "type": "object",
    "required": ["type"],
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "description": "A task type of the producer."},
        "payload": {"type": "object", "description": "What the type's model takes."},
        **{option.http: wire.schema(option) for option in wire.OFFERED},
    },
}
_MADE: Final[Json] = {
    "type": "object",
    "required": ["id", "created"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "created": {"type": "boolean"},
        "replaced": {"type": "boolean", "description": "Whether this job replaced the one with its key."},
    },
}


def describe() -> Json:
    """The whole document, with the endpoints of the plugins."""
    run = {
        "summary": "Run one cycle of due jobs",
        "security": [{"cron": []}],
        "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10}}],
        "responses": responses("The result of the cycle.", _CYCLE, 400, 401, 408, 413, 414, 429, 500, 503),
    }
    body = {
        "type": "object",
        "properties": {"limit": {"type": "integer", "minimum": 1, "maximum": 10}, "force": {"type": "boolean"}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Jobdeck's HTTP server", "version": "1"},
        "paths": {
            cron.PATH: {
                "get": {**run, "operationId": "runJobs"},
                "post": {
                    **run,
                    "operationId": "runJobsByPost",
                    "requestBody": {"content": {"application/json": {"schema": body}}},
                },
            },
            enqueue.PATH: {"post": _enqueue()},
            **{path: item for plugin in load_plugins() if plugin.openapi for path, item in plugin.openapi().items()},
            metrics.HEALTHZ_PATH: {
                "get": {
                    "summary": "Check the server and its database",
                    "operationId": "healthz",
                    "responses": {
                        **responses("Both answer.", {"type": "object"}, 408, 413, 414),
                        "503": {"description": "The database does not answer.", "content": {"application/json": {}}},
                    },
                }
            },
            metrics.METRICS_PATH: {
                "get": {
                    "summary": "Metrics for Prometheus",
                    "operationId": "metrics",
                    "security": [{"metrics": []}],
                    "responses": {
                        "200": {"description": "All samples.", "content": {"text/plain": {}}},
                        **{str(status): REFUSED for status in (401, 404, 408, 413, 414, 503)},
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {
                "cron": {"type": "http", "scheme": "bearer", "description": "CRON_SECRET"},
                "metrics": {"type": "http", "scheme": "bearer", "description": "JOBDECK_METRICS_TOKEN"},
                "producer": {"type": "http", "scheme": "bearer", "description": "The token of `jobdeck producers add`"},
            }
        },
    }


def _enqueue() -> Json:
    key = {"type": "string", "minLength": 1, "maxLength": enqueue.LONGEST_KEY}
    listed = {"type": "array", "minItems": 1, "maxItems": wire.MOST_JOBS, "items": _ASKED}
    answer = {"oneOf": [_MADE, {"type": "object", "properties": {"jobs": {"type": "array", "items": _MADE}}}]}
    known = responses(
        "All jobs were there already.", answer, 400, 401, 403, 408, 409, 413, 414, 415, 422, 429, 500, 503
    )
    return {
        "summary": "Enqueue one job, or a list of jobs all or none",
        "operationId": "enqueue",
        "security": [{"producer": []}],
        "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": key}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": [_ASKED, listed]}}}},
        "responses": {**known, "201": {**known["200"], "description": "At least one job was created."}},
    }


def responses(text: str, schema: Json, *refusals: int) -> Json:
    """The responses of an operation: description and schema of 200, and the statuses of refusals."""
    return {
        "200": {"description": text, "content": {"application/json": {"schema": schema}}},
        **{str(status): REFUSED for status in refusals},
    }
