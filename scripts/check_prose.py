"""Check the form of the documentation, and the subjects of commits since a base.

    python scripts/check_prose.py                 # README, CHANGELOG, docs and reports
    python scripts/check_prose.py --since main    # the commits that main does not have, too

Sources: US spelling, and sentences of at most 25 words in the docstrings of public names, which become pages.
Pages: sentences of at most 25 words (not in tables, reports and the changelog), at most 140 characters a line outside
of tables and code, 84 in code (what the page shows without scrolling), numbers with a leading zero, US spelling, and
no page that no other page links to. Cells of the page on status: at most 12 words. Commits: a subject of at most 72
characters that names its area first (``masks: keep ties exact``).
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINE, CODE, SUBJECT, CELL, SENTENCE = 140, 84, 72, 12, 25
_BRITISH = re.compile(
    r"\b\w*(?:(?:general|memor|standard|normal|optim|regular|initial|minim|recogn|local|summar|discret|orthogonal|"
    r"character|parametr|organ|vector|quant|serial|synchron|polar|symbol|util|visual)"
    r"is(?:e|ed|es|er|ing|able|ation|ations)(?![a-z])|behaviour|colour|neighbour|centre|centring|labelled|modelling|favour|"
    r"licence|defence|catalogue|travelled|honour)\w*|\banalys(?:e|ed|er|ing)\b",
    re.IGNORECASE,
)
_BARE_DECIMAL = re.compile(r"(?<![\w.\])/-])\.\d")
_END = re.compile(r"""(?<=[.!?:])["')*]*\s+(?=[^\Wa-z_]|[`*\[("'])""")
_WORD = re.compile(r"[\w'’%.\-–/]*\w[\w'’%.\-–/]*")
_ITEM = re.compile(r"\s*(?:[-*]|\d+\.) ")
_NO_PROSE = ("|", "#", "<", "!", "    ", "===", "---")
_SECTION = re.compile(r"(?:Args|Returns|Raises|Yields|Attributes):$")
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


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs and items of lists, each with the number of its first line."""
    first, block = 0, list[str]()
    for number, line, fenced in [*_lines(text), (0, "", False)]:
        if fenced or not line.strip() or _ITEM.match(line):
            if block and not block[0].startswith(_NO_PROSE):
                yield first, " ".join(block)
            block = []
        if not fenced and line.strip():
            first = first if block else number
            block.append(line if not block else line.strip())


def long_sentences(text: str) -> Iterator[str]:
    """Sentences of more than 25 words, outside of code, tables and headings; inline code is one word.

    >>> list(long_sentences("Short. Long " + "word " * 25))
    ['1: a sentence of 26 words, at most 25: Long word word word word word …']
    """
    for number, block in _blocks(text):
        plain = re.sub(r"(`+).+?\1", "`x`", re.sub(r"\]\([^)]*\)", "]", block))
        for sentence in _END.split(plain):
            if (words := len(_WORD.findall(sentence))) > SENTENCE:
                start = " ".join(sentence.split()[:6])
                yield f"{number}: a sentence of {words} words, at most {SENTENCE}: {start} …"


def _page_of(docstring: str) -> str:
    """A docstring as prose: without examples, every entry of a section a paragraph; as many lines as it has."""
    lines, indent, example = list[str](), 0, False
    for line in docstring.splitlines():
        if _SECTION.match(line):
            line, indent = "", 4
        elif line and not line.startswith(" "):
            indent = 0
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        line = "" if example else line[indent:]
        entry = indent and re.match(r"[\w*., ]+: ", line)
        lines.append(f"- {line[entry.end() :]}" if entry else line)
    return re.sub(r":\w+:(?=`)", "", "\n".join(lines))


def _documented(node: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, name and docstring of a module and of what is public in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        name = getattr(node, "name", "module")
        if name.startswith("_"):
            return
        if docstring := ast.get_docstring(node):
            yield node.body[0].lineno, name, docstring
    for child in ast.iter_child_nodes(node):
        yield from _documented(child)


def long_sentences_of_code(text: str) -> Iterator[str]:
    """Those of the docstrings of public names, with the line of the docstring's sentence.

    >>> list(long_sentences_of_code("def f(): '" + "word " * 26 + "'"))
    ['1: f has a sentence of 26 words, at most 25: word word word word word word …']
    """
    for start, name, docstring in _documented(ast.parse(text)):
        for fault in long_sentences(_page_of(docstring)):
            number, _, what = fault.partition(": a")
            yield f"{start + int(number) - 1}: {name} has a{what}"


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
        if page in pages:
            found += [f"{page.relative_to(ROOT)}:{fault}" for fault in long_sentences(page.read_text(encoding="utf-8"))]
    for module in sorted((ROOT / "src").rglob("*.py")):
        code = module.read_text(encoding="utf-8")
        faults = [*faults_of_code(code), *long_sentences_of_code(code)]
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
