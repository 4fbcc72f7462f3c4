"""The door in OpenAPI's words (version 3.1): what may be sent, and every status that may come back."""

from __future__ import annotations

from typing import Any, Final

from jobdeck.core.http import cron, metrics
from jobdeck.core.plugins import load_plugins

Json = dict[str, Any]

REFUSED: Final[Json] = {
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


def describe() -> Json:
    """The whole description."""
    run = {
        "summary": "Run one cycle of due jobs",
        "security": [{"cron": []}],
        "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 10}}],
        "responses": responses("What the cycle came to.", _CYCLE, 400, 401, 408, 413, 414, 429, 500, 503),
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
            **{path: item for plugin in load_plugins() if plugin.openapi for path, item in plugin.openapi().items()},
            metrics.HEALTHZ_PATH: {
                "get": {
                    "summary": "Whether the door and its database answer",
                    "operationId": "healthz",
                    "responses": {
                        **responses("They do.", {"type": "object"}, 408, 413, 414),
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
                        **{str(status): REFUSED for status in (401, 404, 408, 413, 414, 503)},
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


def responses(told: str, schema: Json, *refusals: int) -> Json:
    """The responses of an operation: what 200 answers, and the refusals it may answer with."""
    return {
        "200": {"description": told, "content": {"application/json": {"schema": schema}}},
        **{str(status): REFUSED for status in refusals},
    }
