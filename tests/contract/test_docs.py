"""The documentation keeps its word: its code runs, its commands exist, every public name is explained."""

from __future__ import annotations

import doctest
import io
import re
import shlex
import warnings
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import card_figures
import card_figures_of_analyses
import check_prose
import method_cards
import pytest

import surgecollapse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(page: Path, language: str) -> list[str]:
    """Code blocks of one language on a page, padded with blank lines so that errors name the real line."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text[: block.start(1)].count("\n") + block[1] for block in blocks]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=name)
def test_python_on_the_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    with warnings.catch_warnings():
        if page.name in ("trainers.md", "tune-own-loop.md"):  # what other packages warn of
            warnings.simplefilter("ignore")
        for block in fenced(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)


COMMANDS = [
    pytest.param(line, id=f"{name(page)}: {line}")
    for page in PAGES
    for block in fenced(page, "console")
    for line in (text.split("#")[0].strip() for text in block.replace("\\\n", " ").splitlines())
    if line.startswith("surgecollapse ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_on_the_pages_are_understood(line):
    from surgecollapse.cli.app import app

    command, _, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    assert callable(command)


@pytest.mark.parametrize("public", surgecollapse.__all__)
def test_public_name_says_what_it_is(public):
    value = getattr(surgecollapse, public)
    doc = getdoc(value)
    assert doc, f"surgecollapse.{public} has no docstring"
    if value.__module__.startswith("surgecollapse.events."):
        return  # records: their fields are documented one by one
    pointed = any(mark in doc for mark in (">>>", ":class:", ":func:", "arXiv"))
    assert pointed, f"the docstring of surgecollapse.{public} has neither an example nor a reference"


def test_every_module_has_a_place_in_the_reference():
    written = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    roots = re.findall(r"^::: surgecollapse\.(\w+)", written, re.MULTILINE)
    package = Path(surgecollapse.__file__).parent
    found = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {module for module in found if not module.startswith("_")} <= set(roots)


def test_decision_records_are_listed_and_have_every_section():
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    records = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert records
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert f"]({record.name})" in index
        assert re.search(r"^Status: (accepted|superseded by \[\d{4}\])", text, re.MULTILINE), record.name
        for section in ("Context", "Decision", "Rejected", "How we would know that we were wrong"):
            assert f"\n## {section}\n" in text, f"{record.name} lacks the section {section!r}"


@pytest.mark.parametrize("part", [pytest.param(part, id=part.page) for part in method_cards.parts()])
def test_docstring_has_every_section_of_its_card(part):
    said = method_cards.sections(part.value)
    assert said[""].strip(), "no idea in a line"
    missing = [section for section in method_cards.SECTIONS if not said.get(section)]
    assert not missing, f"the docstring of {part.page} lacks {', '.join(missing)}"


@pytest.mark.parametrize("part", [pytest.param(part, id=part.page) for part in method_cards.parts()])
def test_example_of_a_card_runs_when_it_is_pasted(part):
    test = doctest.DocTestParser().get_doctest(method_cards.example_of(part), {}, part.page, None, 0)
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=said.write).failed == 0, said.getvalue()


def test_card_shows_what_the_docstring_says():
    class Part:
        """Do a thing, x ← 2x.

        More of it::

            y = x | 1

        Args:
            scale: how much | or
                how little.

        >>> 1 + 1
        2

        When to use:
            Seldom.

        Cost:
            None.

        Deviations:
            None from ``x``.

        Source:
            Someone 2020, arXiv 2001.00001.
        """

        def __init__(self, scale: float = 2.0) -> None: ...

    text = method_cards.card(method_cards.Part("policies", "part", Part, "Part"), "")
    for piece in (
        "# Part\n\nDo a thing, x ← 2x.",
        "```text\ny = x | 1\n```",
        "## When to use\n\nSeldom.",
        "None from `x`.",
        "[arXiv 2001.00001](https://arxiv.org/abs/2001.00001)",
        r"| `scale` | `2.0` | how much \| or how little. |",
        "```pycon\n>>> 1 + 1\n2\n```",
    ):
        assert piece in text


def test_every_analysis_has_a_figure():
    analyses = {part.name for part in method_cards.parts() if part.kind == "analyses"}
    pictures = {page.removeprefix("analyses/") for page in method_cards.PICTURES if page.startswith("analyses/")}
    assert analyses == pictures | set(card_figures_of_analyses.FIGURES)
    assert all((ROOT / "docs" / "images" / file).is_file() for file, _ in method_cards.PICTURES.values())


@pytest.mark.parametrize("name", ["masks", "gap"])
def test_the_figure_of_a_monitor_draws_its_first_number(name):
    drawn = card_figures.figure_of_monitor(name)
    assert f"<code>{'mask/sparsity</code>, mean over layers' if name == 'masks' else 'gap/loss</code>'}" in drawn
    points = re.search(r'<polyline points="([^"]+)"', drawn)[1].split()
    assert 20 < len(points) <= card_figures.STEPS // card_figures.EVERY
    assert 'aria-label="' in drawn


def test_the_figure_of_the_null_control_says_that_it_changes_nothing():
    drawn = card_figures.figure_of_policy("no_op")
    assert "Both are the same to the last bit." in drawn
    solid, dashed = (set(points.split()) for points in re.findall(r'<polyline points="([^"]+)"', drawn))
    assert solid == dashed


def test_the_figure_of_bounded_rows_stays_below_the_bound():
    drawn = card_figures.figure_of_transform("clip_rows")
    highest = float(re.search(r">([\d.]+)</text><line[^>]*/><polyline", drawn)[1])
    dashed, solid = (
        [float(point.split(",")[1]) for point in points.split()]
        for points in re.findall(r'<polyline points="([^"]+)"', drawn)
    )
    top, bottom = min(dashed), 150.0
    assert min(solid) >= bottom - (bottom - top) / highest - 2.0  # two pixels: the label has two digits
    assert min(dashed) < min(solid)


def test_prose_is_in_form():
    assert check_prose.check(None) == []


def test_checks_of_prose_find_what_they_look_for(tmp_path):
    assert not doctest.testmod(check_prose).failed
    long, table = "word " * 30, "| cell " * 30
    code = "x" * check_prose.CODE
    page = f"{long}\n{table}\n```\n{code}\n```\n    ```\n    {code}\n    {code}.5\n    ```"
    prose, in_code = check_prose.faults_of_page(page)
    assert prose.startswith("1: ")
    assert in_code.startswith("8: ")
    (tmp_path / "index.md").write_text("[a](a.md)", encoding="utf-8")
    (tmp_path / "a.md").write_text("[a](a.md)", encoding="utf-8")
    (tmp_path / "lost.md").write_text("[home](index.md)", encoding="utf-8")
    assert check_prose.unlinked(tmp_path) == ["lost.md"]
    assert any("75 characters" in fault for fault in check_prose.faults_of_subject("docs: " + "x" * 69))


def test_long_sentences_are_found_in_prose_and_not_in_code():
    long = "A sentence of " + "many " * 30 + "words."
    page = f"# {long}\n\n| {long} |\n\n    {long}\n\n```text\n{long}\n```\n\n- Short.\n- {long}\n  And short."
    assert [fault.partition(":")[0] for fault in check_prose.long_sentences(page)] == ["12"]
    assert list(check_prose.long_sentences(f"One `{long}` and [one](https://example.org/{'a-' * 40}).")) == []
    args = f"    Args:\n        x: short.\n        y: {long}\n    >>> {long}\n    {long}"
    code = f'def f(x, y):\n    """Short.\n\n{args}\n    """\n\n\ndef _g():\n    """{long}"""\n'
    assert [fault.partition(":")[0] for fault in check_prose.long_sentences_of_code(code)] == ["6"]


def test_version_is_the_same_everywhere():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert import_module("surgecollapse").__version__ == version
