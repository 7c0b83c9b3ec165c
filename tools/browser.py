"""Make sure that there is a Chromium for the browser tests: the machine's, Debian's, or Playwright's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def system_browser() -> str | None:
    """The Chromium to use, by $BBIO_CHROMIUM or from PATH; None where only Playwright's own may be there."""
    return os.environ.get("BBIO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def main() -> None:
    if found := system_browser():
        print(f"browser: {found}")
    elif shutil.which("apt-get") and os.geteuid() == 0:
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for args in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-q", *args], env=env, check=True, stdout=subprocess.DEVNULL)
        print(f"browser: {system_browser()}")
    else:
        playwright = Path(sys.executable).with_name("playwright")
        subprocess.run([str(playwright), "install", "chromium"], check=True)


if __name__ == "__main__":
    main()
