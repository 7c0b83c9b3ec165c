"""What the benchmark needs beside the repository: the compiled load generator and the installed peers."""

import asyncio
import atexit
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
PEERS = HERE / "peers"
LOADGEN = BUILD / "loadgen"


class Missing(Exception):
    """A tool is not on this machine; the text says which, and how to get it."""


def once(stamp: Path, sources: list[Path], make: Callable[[], None]) -> None:
    """Call `make` unless it was done for these very sources."""
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == key:
        return
    make()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)


def call(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{' '.join(map(str, command))} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")


def build_loadgen() -> None:
    source = HERE / "loadgen.c"
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)

    def make() -> None:
        if compiler is None:
            raise Missing(
                "the load generator is written in C, and there is no C compiler here: "
                "install one (Debian, Ubuntu: apt-get install gcc libc6-dev)"
            )
        BUILD.mkdir(exist_ok=True)
        call(compiler, "-O2", "-Wall", "-o", LOADGEN, source)

    once(BUILD / "loadgen.stamp", [source], make)


@cache
def postgres() -> str:
    """The DSN of a PostgreSQL that is thrown away at the end, durable as it is by default."""
    from tests.support.services import PostgresServer

    server = PostgresServer(durable=True)
    server.start()
    atexit.register(server.remove)
    return server.url


def empty_database() -> str:
    """The DSN of a database in it that has nothing: no tables of an earlier run, or of another version."""
    url = postgres()

    async def make() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
        await connection.execute("CREATE DATABASE bench")
        await connection.close()

    asyncio.run(make())
    return urlunsplit(urlsplit(url)._replace(path="/bench"))


def python_environment(name: str, requirements: Path) -> Path:
    """An environment with pinned packages, of this same Python version; returns its interpreter."""
    folder = BUILD / name
    interpreter = folder / "bin" / "python"

    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        call(sys.executable, "-m", "venv", folder)
        call(interpreter, "-m", "pip", "install", "--quiet", "--requirement", requirements)

    once(BUILD / f"{name}.stamp", [requirements], make)
    return interpreter


def node_packages(folder: Path) -> None:
    """The locked npm packages of a peer, in its own folder."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Missing(f"{folder.name} runs on Node and there is no {tool} here: install Node 20 or later")
    call_npm = ("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")
    stamp = folder / "node_modules" / ".stamp"
    once(stamp, [folder / "package-lock.json"], lambda: call(*call_npm, cwd=folder))
