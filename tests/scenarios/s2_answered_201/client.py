"""The requests that are sent to both halves, and what is in the tables afterwards."""

from __future__ import annotations

from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from tests.scenarios.s2_answered_201.models import Note, User

REQUESTS: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "note": ("POST", "/projects/1/notes", {"text": "Ask the river"}),
    "async note": ("POST", "/async/projects/1/notes", {"text": "Ask the wind"}),
    "listing": ("GET", "/projects", None),
    "project": ("GET", "/projects/1", None),
    "registration": ("POST", "/users", {"name": "grace"}),
    "same name": ("POST", "/users", {"name": "ada"}),
}


async def ask_everything(app: FastAPI) -> dict[str, Any]:
    """The status of each answer, and its body where it is JSON."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers={"x-user": "ada"}) as client:
        return {name: await _ask(client, *request) for name, request in REQUESTS.items()}


async def _ask(client: httpx.AsyncClient, method: str, path: str, body: dict[str, str] | None) -> Any:
    answer = await client.request(method, path, json=body)
    return answer.status_code, (answer.json() if answer.is_success else None)


def rows(engine: Engine) -> dict[str, int]:
    """How many notes and users are stored, as a new session sees them."""
    with Session(engine) as session:
        return {
            model.__tablename__: session.scalar(select(func.count()).select_from(model)) or 0 for model in (Note, User)
        }
