"""The requests that are sent to both halves."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI

REQUESTS = {
    "open tickets": ("GET", "/tickets"),
    "closing": ("POST", "/tickets/1/close"),
    "numbers": ("GET", "/numbers"),
    "report": ("GET", "/report"),
}


async def ask_everything(app: FastAPI) -> dict[str, Any]:
    """The answer to each request, or its status where it failed."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        answers = {name: await client.request(method, path) for name, (method, path) in REQUESTS.items()}
    return {name: answer.json() if answer.is_success else answer.status_code for name, answer in answers.items()}
