"""Put the reports and the changelog, which live outside of ``docs/``, into the built documentation.

A script of mkdocs-gen-files. Pages link to these files where they lie in the repository (``../benchmarks/reports/…``),
so that the links work there, too; here they are pointed at the copies.
"""

from __future__ import annotations

import re
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "benchmarks" / "reports"


def _write(page: str, text: str) -> None:
    with mkdocs_gen_files.open(page, "w") as out:
        out.write(text)


def _copied(text: str) -> str:
    """Links of a report, or of the changelog, as seen from ``docs/reports/``."""
    text = text.replace("](../../docs/", "](../").replace("](../../CHANGELOG.md", "](changelog.md")
    return re.sub(r"\]\((?:docs|benchmarks/reports)/", lambda m: "](../" if "docs" in m[0] else "](", text)


for report in sorted(REPORTS.glob("*.md")):
    name = "index.md" if report.name == "README.md" else report.name
    _write(f"reports/{name}", _copied(report.read_text(encoding="utf-8")).replace("](README.md", "](index.md"))
for picture in sorted((REPORTS / "images").glob("*.png")):
    with mkdocs_gen_files.open(f"reports/images/{picture.name}", "wb") as out:
        out.write(picture.read_bytes())
_write("reports/changelog.md", _copied((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))

for page in sorted((ROOT / "docs").rglob("*.md")):
    text = page.read_text(encoding="utf-8")
    up = "../" * (len(page.relative_to(ROOT).parts) - 1)
    here = up.removesuffix("../")
    pointed = text.replace(f"]({up}benchmarks/reports/README.md", f"]({here}reports/index.md")
    pointed = pointed.replace(f"]({up}benchmarks/reports/", f"]({here}reports/")
    pointed = pointed.replace(f"]({up}CHANGELOG.md", f"]({here}reports/changelog.md")
    if pointed != text:
        _write(page.relative_to(ROOT / "docs").as_posix(), pointed)
