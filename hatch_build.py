"""Build hook: puts the browser's scripts into bbio/static, for wheels, sdists and editable installs alike.

The client is built from client/, the libraries it stands on come from npm as client/package-lock.json says.
Nothing is done while bbio/static is what these sources make, nor inside an sdist, which carries it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from npm import NODE_WHEEL, run_npm, system_npm

OWN = [
    "backbone.io.js",
    "backbone.io.js.map",
    "backbone.io.min.js",
    "backbone.io.min.js.map",
    "backbone.io.mjs",
    "backbone.io.mjs.map",
]
VENDORED = {
    "socket.io.js": "socket.io-client/dist/socket.io.js",
    "socket.io.js.map": "socket.io-client/dist/socket.io.js.map",
    "socket.io.min.js": "socket.io-client/dist/socket.io.min.js",
    "socket.io.min.js.map": "socket.io-client/dist/socket.io.min.js.map",
    "socket.io.esm.min.js": "socket.io-client/dist/socket.io.esm.min.js",
    "socket.io.esm.min.js.map": "socket.io-client/dist/socket.io.esm.min.js.map",
    "backbone.js": "backbone/backbone.js",
    "backbone.min.js": "backbone/backbone-min.js",
    # Maps have the names that the scripts call them by.
    "backbone-min.js.map": "backbone/backbone-min.js.map",
    "underscore.js": "underscore/underscore-umd.js",
    "underscore-umd.js.map": "underscore/underscore-umd.js.map",
    "underscore.min.js": "underscore/underscore-umd-min.js",
    "LICENSE.backbone": "backbone/LICENSE",
    "LICENSE.underscore": "underscore/LICENSE",
    # socket.io-client's scripts carry all of these
    "LICENSE.component-emitter": "@socket.io/component-emitter/LICENSE",
    "LICENSE.debug": "debug/LICENSE",
    "LICENSE.engine.io-client": "engine.io-client/LICENSE",
    "LICENSE.engine.io-parser": "engine.io-parser/LICENSE",
    "LICENSE.ms": "ms/license.md",
    "LICENSE.socket.io-client": "socket.io-client/LICENSE",
    "LICENSE.socket.io-parser": "socket.io-parser/LICENSE",
}


class AssetsHook(BuildHookInterface):
    """Builds bbio/static before a wheel, an sdist or an editable install is made."""

    def dependencies(self) -> list[str]:
        """What the build environment needs: Node.js from PyPI, if the machine has none and it has to run."""
        return [] if self._fresh() or system_npm() else [NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build bbio/static, unless it is there already."""
        if self._fresh():
            return
        if not self._installed():
            run_npm(self._client, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        run_npm(self._client, "run", "build")
        shutil.rmtree(self._static, ignore_errors=True)
        self._static.mkdir(parents=True)
        for name in OWN:
            shutil.copyfile(self._client / "dist" / name, self._static / name)
        for name, source in VENDORED.items():
            shutil.copyfile(self._client / "node_modules" / source, self._static / name)
        shutil.copyfile(self._demo, self._static / "demo.html")
        self._stamp.write_text(self._fingerprint())

    @property
    def _demo(self) -> Path:
        return Path(self.root, "examples", "messages", "index.html")

    @property
    def _client(self) -> Path:
        return Path(self.root, "client")

    @property
    def _static(self) -> Path:
        return Path(self.root, "bbio", "static")

    @property
    def _stamp(self) -> Path:
        return self._static / ".stamp"

    def _fresh(self) -> bool:
        if Path(self.root, "PKG-INFO").exists():  # only an sdist has one
            return self._static.exists()
        return self._stamp.exists() and self._stamp.read_text() == self._fingerprint()

    def _installed(self) -> bool:
        """Whether node_modules is what the lock file says; npm writes its own record when it is through."""
        record = self._client / "node_modules" / ".package-lock.json"
        lock = self._client / "package-lock.json"
        return record.exists() and record.stat().st_mtime >= lock.stat().st_mtime

    def _fingerprint(self) -> str:
        """A digest of all that the assets are made of."""
        scripts = (path for path in self._client.iterdir() if path.suffix in {".js", ".json", ".mjs"})
        sources = (path for path in self._client.joinpath("src").rglob("*") if path.is_file())
        digest = hashlib.sha256(Path(__file__).read_bytes())
        digest.update(self._demo.read_bytes())
        for path in sorted([*scripts, *sources]):
            digest.update(path.relative_to(self._client).as_posix().encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()
