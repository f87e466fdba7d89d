"""Chromium, installed or unpacked from Debian's packages."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import debian
from tests.servers.process import search_path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "chromium-common", "fonts-liberation")


@dataclass(frozen=True)
class Browser:
    """A program, and the environment to start it in."""

    program: str
    environment: dict[str, str] = field(repr=False)


def chromium(home: Path) -> Browser:
    """The browser of this machine, or Debian's; `home` is a folder for what that one writes."""
    for name in NAMES:
        if found := shutil.which(name, path=search_path()):
            return Browser(found, dict(os.environ))
    install = debian.find(NAMES[0], PACKAGES)
    fonts = home / "fonts.conf"
    places = f"<dir>{install.prefix}/share/fonts</dir><cachedir>{home}/fonts</cachedir>"
    fonts.write_text(f"<fontconfig>{places}</fontconfig>\n")
    # Not the script in bin/: wherever it stands, it starts /usr/lib/chromium/chromium.
    program = str(install.prefix / "lib" / "chromium" / "chromium")
    return Browser(program, {**os.environ, **install.environment, "HOME": str(home), "FONTCONFIG_FILE": str(fonts)})
