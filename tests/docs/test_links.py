"""Links lead somewhere, and the site that is built from the pages is whole and needs no other server."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest

import idemtable
from idemtable import AsyncIdemTable, IdemTable, transactional
from idemtable.transactional import Options
from tests.docs import site
from tests.docs.pages import DOCS, PAGES, PARSED, ROOT, Page, read


def anchors(page: Page) -> set[str]:
    """The anchors of a page's headings, as GitHub and Zensical make them."""
    headings = re.findall(r"^#+ +(.+)$", page.prose, re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PARSED[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if target.startswith(("https://", "http://")):
            continue
        where, _, anchor = target.partition("#")
        found = (page.path.parent / where).resolve() if where else page.path
        assert found.exists(), f"{name}: {target}"
        assert not where or page.path.parent == ROOT or DOCS in found.parents, (
            f"{name}: {target} is not part of the site"
        )
        if anchor and found.suffix == ".md":
            assert anchor in anchors(read(found)), f"{name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy."""
    pytest.importorskip("zensical", reason="the documentation's tools are not installed; `make test` does")
    root = tmp_path_factory.mktemp("site")
    site.fetch_mermaid(DOCS / "javascripts")
    for part in ("docs", "idemtable"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / part, root)
    site.build(root)
    return root / "site"


def test_the_site_builds_without_broken_links_and_asks_no_other_server(built: Path) -> None:
    assert site.faults(built) == []


def test_the_site_brings_mermaid_and_its_licence(built: Path) -> None:
    assert (built / "javascripts" / site.SCRIPT).stat().st_size > 1_000_000
    assert "MIT" in (built / "javascripts" / "mermaid.LICENSE.txt").read_text(encoding="utf-8")
    assert site.SCRIPT in (built / "explanation" / "how-it-works" / "index.html").read_text(encoding="utf-8")


def test_the_site_shows_whole_signatures_one_parameter_a_line(built: Path) -> None:
    shown = site.signatures(built / "reference" / "api" / "index.html")
    functions = [
        IdemTable.transactional,
        AsyncIdemTable.transactional,
        transactional,
        IdemTable.purge,
        IdemTable.tokens,
    ]
    for name, function in [("IdemTable", IdemTable.__init__), *((f.__name__, f) for f in functions)]:
        names = [name for name in inspect.signature(function).parameters if name not in ("self", "options")]
        if "options" in inspect.signature(function).parameters:
            names += Options.__annotations__
        parameters = [f"\n    {name}" for name in names]
        assert any(all(line in text for line in parameters) for text in shown[name]), f"{name}: {shown[name]}"
    everything = "\n".join(text for texts in shown.values() for text in texts)
    assert "Unpack[" not in everything
    assert "**options" not in everything


def test_the_api_page_has_the_claim_of_a_block(built: Path) -> None:
    text = (built / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("Claim", "Claim.session", "Claim.replayed", "Claim.record", "Claim.result", "AsyncClaim"):
        assert f"idemtable.blocks.{name}" in text, name


def test_the_site_shows_every_error_with_what_it_carries(built: Path) -> None:
    text = (built / "reference" / "errors" / "index.html").read_text(encoding="utf-8")
    for name in idemtable.errors.__all__:
        assert f'id="idemtable.errors.{name}"' in text or f"id=idemtable.errors.{name}" in text, name


def test_no_name_in_a_table_of_the_site_is_broken_in_two(built: Path) -> None:
    """The theme's own rule for code breaks it anywhere; ours must be there, come after it, and be more precise."""
    page = (built / "reference" / "errors" / "index.html").read_text(encoding="utf-8")
    sheets = re.findall(r'<link rel="?stylesheet"? href="?([^" >]+)', page)
    assert sheets[-1].endswith("stylesheets/tables.css")
    rules = (built / "stylesheets" / "tables.css").read_text(encoding="utf-8")
    assert ".md-typeset table code" in rules
    assert "word-break: normal" in rules
