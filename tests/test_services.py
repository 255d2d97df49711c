"""Servers for the tests: found, started, stopped, or missed by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from tests.services import ALL, POSTGRESQL, Service, UnavailableError


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Service:
    """PostgreSQL on a machine that has none."""

    def command(folder: Path, port: int) -> tuple[list[str], str, str, URL]:
        raise UnavailableError("initdb is not installed")

    monkeypatch.setenv("SW_ABSENT_URL", "")
    monkeypatch.setenv("SW_ABSENT_URL_MISSING", "")
    return dataclasses.replace(POSTGRESQL, variable="SW_ABSENT_URL", usual=(), command=command, guards=[])


def test_a_missing_service_skips_its_tests_by_name(absent: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is required the reason of the skip names the service and what is missing."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("SESSIONWATCH_REQUIRE_SERVICES", raising=False)
    absent.provide()
    with pytest.raises(pytest.skip.Exception, match="no PostgreSQL: initdb is not installed"):
        absent.url()


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("SESSIONWATCH_REQUIRE_SERVICES", "1")])
def test_a_missing_service_fails_where_it_is_required(
    absent: Service, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """In CI a service that cannot be had is a failure, never a skip."""
    monkeypatch.setenv(name, value)
    absent.provide()
    with pytest.raises(pytest.fail.Exception, match="no PostgreSQL"):
        absent.url()


def test_a_wrong_url_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that was given and does not answer is not replaced by another server."""
    monkeypatch.setenv("SW_GIVEN_URL", "postgresql://postgres@127.0.0.1:1/postgres")
    with pytest.raises(pytest.UsageError, match="SW_GIVEN_URL: PostgreSQL does not answer"):
        dataclasses.replace(POSTGRESQL, variable="SW_GIVEN_URL").provide()


@pytest.mark.slow
@pytest.mark.parametrize("service", ALL, ids=lambda service: service.name.lower())
def test_a_server_of_our_own_starts_and_leaves_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing on the usual port a server is started on a free one; after stop() it is gone with its files."""
    service.url()  # skips where the service cannot be had at all
    monkeypatch.setenv("SW_OWN_URL", "")
    own = dataclasses.replace(service, variable="SW_OWN_URL", usual=(), guards=[])
    try:
        url = own._find()
    except UnavailableError as error:
        pytest.skip(f"{service.name} runs elsewhere and cannot be started here: {error}")
    own.ask(make_url(url))
    (guard,) = own.guards
    folder = Path(str(guard.args[5]))
    assert folder.is_dir()
    own.stop()
    assert not folder.exists()
    with pytest.raises(Exception, match=r"refused|Can't connect"):
        own.ask(url)
