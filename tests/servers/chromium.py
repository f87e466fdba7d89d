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
_FONTS = """<fontconfig>
<dir>{fonts}</dir><cachedir>{cache}</cachedir>
<match><edit name="family" mode="prepend" binding="strong"><string>Liberation Sans</string></edit></match>
</fontconfig>
"""


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
    fonts.write_text(_FONTS.format(fonts=install.prefix / "share" / "fonts", cache=home / "fonts"))
    # Not the script in bin/: wherever it stands, it starts /usr/lib/chromium/chromium.
    program = str(install.prefix / "lib" / "chromium" / "chromium")
    return Browser(program, {**os.environ, **install.environment, "HOME": str(home), "FONTCONFIG_FILE": str(fonts)})
