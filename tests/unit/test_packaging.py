"""The package as others get it: an sdist, a wheel made of it, and what an installation of that can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.support.services import free_port

# The fixtures build and install; one process is to do so once. Each Python has bbio installed to run its tests.
pytestmark = [pytest.mark.xdist_group("packaging"), pytest.mark.once]

ROOT = Path(__file__).parents[2]
ASSETS = {path.name for path in ROOT.glob("bbio/static/[!.]*")}
UV = Path(sys.executable).with_name("uv")
APP = """
from bbio import App, Backend
from bbio.builtin import MemoryStore

class Notes(Backend):
    store = MemoryStore()

app = App()
app.serve(Notes)
"""


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made of it where there is no Node.js."""
    folder = tmp_path_factory.mktemp("built")
    # Isolation would fetch hatchling anew; the empty PATH hides Node.js, and the shell that npm needs.
    build = [UV, "build", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    run(*build, "--sdist", cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    run(*build, "--wheel", sdist, env=os.environ | {"PATH": str(folder)})
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of an environment with the wheel and its core dependencies, as locked."""
    folder = tmp_path_factory.mktemp("installed")
    locked = run(UV, "export", "--locked", "--no-dev", "--no-emit-project", "--no-hashes", cwd=ROOT)
    (folder / "locked.txt").write_text(locked)
    run(UV, "venv", "--python", sys.executable, folder / "env")
    python = folder / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(UV, "pip", "install", "--python", python, "--constraints", folder / "locked.txt", wheel)
    return python.parent


def test_wheel_carries_the_browsers_scripts_and_their_licences(built):
    """A wheel made of the sdist, without Node.js, has every asset and the marker of types."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"backbone.io.js", "socket.io.js", "LICENSE.backbone", "LICENSE.socket.io-client"} <= ASSETS
    assert {f"bbio/static/{name}" for name in ASSETS} == {n for n in names if n.startswith("bbio/static/")}
    assert "bbio/py.typed" in names
    assert not [name for name in names if not name.startswith(("bbio/", "bbio-"))]


def test_every_map_that_a_script_names_is_there():
    """A browser's console, which asks for the maps, finds them."""
    scripts = [path for path in (ROOT / "bbio/static").iterdir() if path.suffix in (".js", ".mjs")]
    named = {name for path in scripts for name in re.findall(r"^//# sourceMappingURL=(\S+)", path.read_text(), re.M)}
    assert {"backbone.io.js.map", "underscore-umd.js.map", "backbone-min.js.map"} <= named <= ASSETS


@pytest.mark.parametrize(
    ("lock", "address", "registry"),
    [
        ("uv.lock", r'registry = "([^"]+)"', "https://pypi.org/simple"),
        ("client/package-lock.json", r'"resolved": "(https?://[^/]+)/', "https://registry.npmjs.org"),
    ],
)
def test_lock_files_name_the_default_registry_alone(lock, address, registry):
    """Whoever locks with a mirror configured does not make others fetch from it."""
    assert set(re.findall(address, (ROOT / lock).read_text())) <= {registry}


def test_sdist_carries_sources_and_nothing_fetched(built):
    """An sdist has what building from it takes, and no folder of fetched or generated things."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "tools/npm.py", "client/package-lock.json"} <= names
    assert "bbio/static/backbone.io.js" in names
    assert not [name for name in names if "node_modules" in name or name.startswith("client/dist")]


def test_installed_command_explains_itself(installed, tmp_path):
    """In an environment without development tools `bbio --help` names its commands."""
    text = run(installed / "bbio", "--help", cwd=tmp_path)
    assert all(command in text for command in ("run", "stacks", "demo"))


def test_installed_package_serves_its_assets(installed, tmp_path):
    """`bbio run` serves every script of the package under /socket.io/, byte for byte."""
    (tmp_path / "notes.py").write_text(APP)
    port = free_port()
    command = [installed / "bbio", "run", "notes:app", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        for name in ("backbone.io.js", "backbone.io.min.js", "backbone.io.mjs", "socket.io.js"):
            body = fetch(f"http://127.0.0.1:{port}/socket.io/{name}")
            assert body == (ROOT / "bbio/static" / name).read_bytes()
    except URLError:
        pytest.fail((tmp_path / "log").read_text())
    finally:
        server.terminate()
        server.wait()


def fetch(url: str) -> bytes:
    """Get a page, waiting for its server to start."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                body: bytes = response.read()
                return body
        except URLError as error:
            refused = isinstance(error.reason, ConnectionRefusedError)
            if not refused or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
