"""Take the README's picture, book/_static/site.png: the top of the built front page, in Chromium.

Usage: python tools/picture.py, after `make book`. Chromium is needed for this alone.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from notebooks import ROOT

SITE = ROOT / "_build" / "html"
PICTURE = ROOT / "book" / "_static" / "site.png"
SIZE = (1280, 900)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files without a word on each."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def take(browser: str, address: str, target: Path) -> None:
    """Save what a browser shows of a page."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        command = [browser, "--headless", "--hide-scrollbars", "--disable-gpu", "--no-first-run"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={SIZE[0]},{SIZE[1]}"]
        if os.getuid() == 0:
            command.append("--no-sandbox")  # Chromium refuses to run as root with one
        command += [f"--screenshot={shot}", "--virtual-time-budget=5000", address]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with Image.open(shot) as image:
            image.convert("RGB").save(target, format="PNG", optimize=True)


def main() -> int:
    """Serve the site to this machine, and take the picture."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"None of {', '.join(BROWSERS)} was found: install one.", file=sys.stderr)
        return 1
    if not (SITE / "index.html").is_file():
        print("There is no site yet. Build it with: make book", file=sys.stderr)
        return 1
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        take(browser, f"http://127.0.0.1:{server.server_port}/book/index.html", PICTURE)
        server.shutdown()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
