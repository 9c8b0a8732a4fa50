"""Check the form of the documentation, and the subjects of commits since a base.

    python scripts/check_prose.py                 # README, CHANGELOG, docs and reports
    python scripts/check_prose.py --since main    # the commits that main does not have, too

Sources: US spelling. Pages: at most 140 characters a line outside of tables and code, 84 in code (what the page shows
without scrolling), numbers with a leading zero, US spelling, and no page that no other page links to. Cells of the page
on status: at most 12 words. Commits: a subject of at most 72 characters that names its area first (``masks: keep ties
exact``).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINE, CODE, SUBJECT, CELL = 140, 84, 72, 12
_BRITISH = re.compile(
    r"\b\w*(?:(?:general|memor|standard|normal|optim|regular|initial|minim|recogn|local|summar|discret|orthogonal|"
    r"character|parametr|organ|vector|quant|serial|synchron)is(?:e|ed|es|er|ing|ation|ations)(?![a-z])|"
    r"behaviour|colour|neighbour|centre|centring|labelled|modelling|favour)\w*|\banalys(?:e|ed|er|ing)\b",
    re.IGNORECASE,
)
_BARE_DECIMAL = re.compile(r"(?<![\w.\])/-])\.\d")
_LINK = re.compile(r"\]\(([^)#\s]+\.md)")
_AREA = re.compile(r"^[A-Za-z0-9_./-]+(?: [A-Za-z0-9_./-]+)?: \S")


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Number and text of every line but fences, and whether it is code; code without the indent of its fence."""
    fence: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        start = len(line) - len(line.lstrip())
        if line.lstrip().startswith(("```", "~~~")):
            fence = start if fence is None else None
        else:
            yield number, line if fence is None else line[min(fence, start) :], fence is not None


def prose(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, whole line, and the line without inline code and link targets, of every line outside of code blocks."""
    for number, line, fenced in _lines(text):
        if not fenced:
            yield number, line, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def faults_of_page(text: str, *, width: int | None = LINE) -> Iterator[str]:
    """What is wrong with a page, each with its line; ``width`` is that of prose.

    >>> list(faults_of_page("A value of .5, generalised."))
    ["1: '.5' lacks its leading zero", "1: 'generalised' is not US spelling"]
    """
    for number, line, words in prose(text):
        if width is not None and len(line) > width and not line.startswith("|") and " " in line[: width - 20]:
            yield f"{number}: {len(line)} characters, at most {width}"
        for found in _BARE_DECIMAL.finditer(words):
            yield f"{number}: {found[0]!r} lacks its leading zero"
        for found in _BRITISH.finditer(words):
            yield f"{number}: {found[0]!r} is not US spelling"
    for number, line, fenced in _lines(text):
        if fenced and len(line) > CODE:
            yield f"{number}: {len(line)} characters of code, at most {CODE}"


def long_cells(text: str) -> Iterator[str]:
    """Cells of tables that have more than 12 words.

    >>> list(long_cells("| short | a b c d e f g h i j k l m |"))
    ['1: 13 words in a cell, at most 12']
    """
    for number, line in enumerate(text.splitlines(), 1):
        for cell in line.split("|") if line.startswith("|") else ():
            if (words := len(cell.split())) > CELL:
                yield f"{number}: {words} words in a cell, at most {CELL}"


def faults_of_code(text: str) -> Iterator[str]:
    """Names and comments that are not in US spelling; lines that name version 0.1 may read what it wrote.

    >>> list(faults_of_code("def normalise(x): ..."))
    ["1: 'normalise' is not US spelling"]
    """
    for number, line in enumerate(text.splitlines(), 1):
        if "version 0.1" not in line:
            yield from (f"{number}: {found[0]!r} is not US spelling" for found in _BRITISH.finditer(line))


def unlinked(root: Path) -> list[str]:
    """Pages below ``root`` that no other page links to; the home page needs no link."""
    pages = {page.resolve() for page in root.rglob("*.md")}
    linked = {
        (page.parent / target).resolve()
        for page in pages
        for target in _LINK.findall(page.read_text(encoding="utf-8"))
        if (page.parent / target).resolve() != page
    }
    home = (root / "index.md").resolve()
    return sorted(page.relative_to(root.resolve()).as_posix() for page in pages - linked - {home})


def faults_of_subject(subject: str) -> Iterator[str]:
    """What is wrong with the subject of a commit.

    >>> list(faults_of_subject("masks: keep ties exact"))
    []
    >>> list(faults_of_subject("keep ties exact"))
    ['expected the area first, as in "masks: keep ties exact"']
    """
    if len(subject) > SUBJECT:
        yield f"{len(subject)} characters, at most {SUBJECT}"
    if not _AREA.match(subject):
        yield 'expected the area first, as in "masks: keep ties exact"'


def subjects(base: str) -> list[str]:
    """Subjects of the commits, merges aside, that ``base`` does not have."""
    log = ["git", "log", "--no-merges", "--format=%s", f"{base}..HEAD"]
    return subprocess.run(log, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def check(since: str | None) -> list[str]:
    """All faults, as lines for a reader."""
    found: list[str] = []
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    logs = [ROOT / "CHANGELOG.md", *(ROOT / "benchmarks" / "reports").glob("*.md")]
    for page in sorted(pages + logs):
        faults = faults_of_page(page.read_text(encoding="utf-8"), width=None if page in logs else LINE)
        found += [f"{page.relative_to(ROOT)}:{fault}" for fault in faults]
    for module in sorted((ROOT / "src").rglob("*.py")):
        faults = faults_of_code(module.read_text(encoding="utf-8"))
        found += [f"{module.relative_to(ROOT)}:{fault}" for fault in faults]
    status = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    found += [f"docs/status.md:{fault}" for fault in long_cells(status)]
    found += [f"docs/{page}: no page links to it" for page in unlinked(ROOT / "docs")]
    for subject in subjects(since) if since else []:
        found += [f"commit {subject!r}: {fault}" for fault in faults_of_subject(subject)]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", metavar="BASE", help="check the subjects of the commits that BASE does not have")
    found = check(parser.parse_args(argv).since)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
