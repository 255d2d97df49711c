"""The database servers of the tests: use what is there, start what is not, stop only what was started.

Asked for in this order: the environment (``SESSIONWATCH_TEST_POSTGRES_URL``, ``SESSIONWATCH_TEST_MARIADB_URL``),
the standard port with the usual credentials, a server of our own on a free port in a temporary folder.
Where none of these can be had, the tests of that service are skipped by name; with ``CI=true`` or
``SESSIONWATCH_REQUIRE_SERVICES=1`` they fail instead.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    import pymysql

# A server outlives nobody: when the pipe on the guard's stdin closes, however its owner ended, it stops the server.
GUARD = 'signal=$1 folder=$2; shift 2; "$@" & server=$!; cat >/dev/null; kill -$signal $server; wait; rm -rf "$folder"'
PATIENCE = 180.0  # seconds for a server of our own to answer; only one that hangs needs them


class UnavailableError(Exception):
    """A service that is neither there nor can be started; the text says why."""


@dataclass
class Service:
    """One kind of server: how to ask whether it answers, and how to start one."""

    name: str
    driver: str  # without it, its tests are skipped
    variable: str
    usual: tuple[str, ...]
    ask: Callable[[URL], None]
    command: Callable[[Path, int], tuple[list[str], str, str, URL]]
    guards: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def missing(self) -> str:
        return self.variable + "_MISSING"

    def provide(self) -> None:
        """Find or start a server, and leave its URL (or the reason why not) in the environment for every worker."""
        try:
            os.environ[self.variable] = self._find().render_as_string(hide_password=False)
        except UnavailableError as error:
            os.environ[self.missing] = str(error)

    def url(self) -> URL:
        """The administrator's URL; skips or fails the running test where there is none."""
        if url := os.environ.get(self.variable):
            return make_url(url)
        reason = f"no {self.name}: {os.environ.get(self.missing, 'not looked for')}"
        if required():
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

    def stop(self) -> None:
        while self.guards:
            guard = self.guards.pop()
            guard.communicate(timeout=PATIENCE)

    def _find(self) -> URL:
        if importlib.util.find_spec(self.driver) is None:
            raise UnavailableError(f"the driver {self.driver} is not installed")
        if given := os.environ.get(self.variable):
            return self._given(make_url(given))
        for url in map(make_url, self.usual):
            with suppress(Exception):
                self.ask(url)
                return url
        return self._start()

    def _given(self, url: URL) -> URL:
        try:
            self.ask(url)
        except Exception as error:
            raise pytest.UsageError(f"{self.variable}: {self.name} does not answer at {url}: {error}") from error
        return url

    def _start(self) -> URL:
        folder = Path(tempfile.mkdtemp(prefix="sessionwatch-"))
        try:
            command, user, signal, url = self.command(folder, free_port())
            log = (folder / "log").open("wb")
            arguments = ["sh", "-c", GUARD, "guard", signal, str(folder), *command]
            guard = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **_as(user)
            )
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UnavailableError(f"{self.name} did not start: {error}") from error
        self.guards.append(guard)
        self._wait(url, folder / "log")
        return url

    def _wait(self, url: URL, log: Path) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ask(url)
            except Exception as error:
                if time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    self.stop()
                    raise UnavailableError(f"{self.name} does not answer: {error}\n{tail}") from error
                time.sleep(0.1)


def required() -> bool:
    return os.environ.get("CI", "").lower() == "true" or os.environ.get("SESSIONWATCH_REQUIRE_SERVICES", "") == "1"


def free_port() -> int:
    """A port of 127.0.0.1 for a server that is still to be started.

    It stays bound by this process, to a socket that never listens: so Linux gives it to nobody who asks for any port,
    be it a connection or another test, and still lets a server listen there, as every server allows (SO_REUSEADDR).
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    if sys.platform == "linux":
        probe.detach()
    else:  # where it would be refused to the server as well
        probe.close()
    return port


def ask_postgresql(url: URL) -> None:
    import psycopg

    with psycopg.connect(libpq(url), connect_timeout=5):
        pass


def ask_mariadb(url: URL) -> None:
    connection = mariadb_connection(url)
    version = connection.get_server_info()
    connection.close()
    if "MariaDB" not in version:
        raise UnavailableError(f"the server at {url} is {version}, not MariaDB")


def libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def mariadb_connection(url: URL) -> pymysql.Connection[pymysql.cursors.Cursor]:
    import pymysql

    return pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username or "root",
        password=url.password or "",
        connect_timeout=5,
        autocommit=True,
    )


def postgresql_command(folder: Path, port: int) -> tuple[list[str], str, str, URL]:
    """Make a cluster that trusts everybody on this machine; returns how to run it."""
    user = _owner(folder, "postgres")
    data = folder / "data"
    initdb = _program("initdb", Path("/usr/lib/postgresql").glob("*/bin"))
    options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D", str(data)]
    subprocess.run([initdb, *options], check=True, capture_output=True, cwd=folder, **_as(user))
    settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
    settings |= {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    server = [str(Path(initdb).with_name("postgres")), "-D", str(data), "-p", str(port)]
    server += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return server, user, "QUIT", make_url(f"postgresql://postgres@127.0.0.1:{port}/postgres")


def mariadb_command(folder: Path, port: int) -> tuple[list[str], str, str, URL]:
    """Make a data folder whose root has no password; returns how to run it."""
    user = _owner(folder, "mysql")
    server = _program("mariadbd", [Path("/usr/sbin"), Path("/usr/libexec")])
    common = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
    install = [_program("mariadb-install-db", []), *common, "--skip-test-db"]
    install += ["--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, capture_output=True, cwd=folder, **_as(user))
    options = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 's'}", "--skip-networking=0"]
    options += ["--innodb-flush-log-at-trx-commit=0", f"--pid-file={folder / 'pid'}"]
    return [server, *common, *options], user, "TERM", make_url(f"mysql://root@127.0.0.1:{port}")


def _program(name: str, folders: Iterator[Path] | list[Path]) -> str:
    for folder in sorted(folders, key=lambda path: [int(part) for part in path.parts if part.isdigit()], reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    if found := shutil.which(name):
        return found
    raise UnavailableError(f"{name} is not installed")


def _owner(folder: Path, user: str) -> str:
    """Servers refuse to run as root: give the folder to their own user, and return whom to run as ('' = as we are)."""
    if os.geteuid() != 0:
        return ""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise UnavailableError(f"running as root, and there is no user {user}") from None
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return user


def _as(user: str) -> dict[str, object]:
    if not user:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


POSTGRESQL = Service(
    "PostgreSQL",
    "psycopg",
    "SESSIONWATCH_TEST_POSTGRES_URL",
    ("postgresql://postgres@127.0.0.1:5432/postgres", "postgresql://postgres:postgres@127.0.0.1:5432/postgres"),
    ask_postgresql,
    postgresql_command,
)
MARIADB = Service(
    "MariaDB",
    "pymysql",
    "SESSIONWATCH_TEST_MARIADB_URL",
    ("mysql://root@127.0.0.1:3306",),
    ask_mariadb,
    mariadb_command,
)
ALL = (POSTGRESQL, MARIADB)
