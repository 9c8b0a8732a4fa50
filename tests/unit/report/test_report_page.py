"""The page: one file that asks for nothing, says what is missing, and trusts no text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.text import Text

from surgecollapse.report import write_report
from surgecollapse.report.compare import overview
from surgecollapse.report.markup import page_html
from surgecollapse.report.page import PARTS, sections
from surgecollapse.report.rundata import RunData
from surgecollapse.report.style import MARKS, settle

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects ids, references and tags, and that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self._attributes(attrs)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def _attributes(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.references.append(value)
            self.references += re.findall(r"url\((.*?)\)", value or "")


def read(page: Path) -> Checker:
    checker = Checker()
    checker.feed(page.read_text(encoding="utf-8"))
    assert not checker.open, f"never closed: {checker.open}"
    return checker


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    return write_report(pair, tmp_path_factory.mktemp("report") / "new" / "report")


def test_the_page_is_whole_small_and_asks_for_nothing_outside(page):
    assert page.name == "index.html"
    assert page.stat().st_size < 1_500_000
    found = read(page)
    assert not {"script", "link", "iframe", "object", "embed"} & set(found.tags)
    for reference in found.references:
        local = reference.startswith(("#", "data:image/png")) or (page.parent / reference).is_file()
        assert local, f"{reference[:80]} is outside of the page"
    assert "@import" not in page.read_text()


def test_ids_are_unique_and_every_reference_has_one(page):
    found = read(page)
    twice = {name for name in found.ids if found.ids.count(name) > 1}
    assert not twice
    missing = {r[1:] for r in found.references if r.startswith("#")} - set(found.ids)
    assert not missing


def test_every_picture_is_well_formed_labeled_and_has_its_png(page):
    pictures = re.findall(r"<svg .*?</svg>", page.read_text(), flags=re.S)
    assert len(pictures) == len(list(page.parent.glob("*.png"))) >= 15
    for picture in pictures:
        assert ET.fromstring(picture).get("aria-label")
    for png in page.parent.glob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG")


def test_the_table_of_contents_names_every_section(page):
    text = page.read_text()
    contents = re.findall(r'<li><a href="#([\w-]+)">', text)
    assert contents == re.findall(r'<section id="([\w-]+)">', text)
    assert contents == list(PARTS)


def test_every_intervention_stands_in_the_table_with_its_reason(pair, page):
    text = " ".join(read(page).text)
    for event in pair[1].interventions:
        assert event.reason in text
        assert event.kind in MARKS
    assert f"All {len(pair[1].interventions)} interventions" in text


def test_names_and_reasons_cannot_inject_markup(make, tmp_path):
    bad = "<script>alert(1)</script>&\"'`x`"
    run = make(name=bad)
    events = tuple(replace(event, reason=bad, phase=bad) for event in run.interventions)
    run = replace(run, interventions=events, phases=((0, bad),), task=bad, directory=Path(bad), notes=(bad,),
                  parameters={f"{bad}.{name}": value for name, value in run.parameters.items()},
                  predictions=replace(run.predictions, names=(bad,) * 10))  # fmt: skip
    page = tmp_path / "index.html"
    page.write_text(page_html(bad, bad, sections([run]), bad), encoding="utf-8")
    assert "<script" not in page.read_text()
    found = read(page)
    assert "script" not in found.tags
    assert any("<script>alert(1)</script>" in text for text in found.text)


def test_what_a_run_lacks_is_said_and_nothing_fails(tmp_path):
    text = " ".join(read(write_report([RunData("bare", Path("runs/bare"), task="x")], tmp_path)).text)
    for words in (
        "No run recorded a loss", "No accuracy was recorded", "took no readings", "nothing was done to the weights",
        "no class predictions", "no final model", "No run kept sketches", "No weight has an axis",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(
    ("without", "anchors"),
    [
        ({"predictions": None}, ("summary", "classification")),
        ({"interventions": (), "phases": (), "floors": ()}, ("summary", "entropy", "energy", "trajectory")),
        ({"readings": ()}, ("summary", "entropy")),
        ({"sketch": None}, ("trajectory",)),
        ({"parameters": {}, "gradients": {}, "prunable": frozenset()}, ("summary", "weights", "fourier")),
        ({"measurements": {}}, ("summary", "learning", "energy")),
        ({"steps": 0, "finished": False}, ("summary", "learning", "entropy")),
    ],
)
def test_any_part_may_be_missing(make, without, anchors):
    parts = sections([replace(make(), **without)])
    assert [part.anchor for part in parts] == list(PARTS)
    for part in parts:
        for picture in part.pictures if part.anchor in anchors else ():
            settle(picture.figure)
    checker = Checker()
    checker.feed(page_html("title", "lead", [replace(part, pictures=[]) for part in parts], "foot"))
    assert checker.tags.count("section") == len(PARTS)
    assert not checker.open


def test_a_page_that_cannot_be_written_says_where_and_why(make, tmp_path, monkeypatch):
    def full(figure, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("surgecollapse.report.style.save_png", full)
    with pytest.raises(OSError, match=r"cannot write the report in .* \(No space left on device\): free space"):
        write_report([RunData("bare", Path())], tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.html"], "the page itself needs no picture"


def test_more_than_two_runs_are_compared(make):
    runs = [make(f"run {i}", seed=i) for i in range(4)]
    labels = [text.get_text() for text in overview(runs).figure.findobj(Text)]
    assert all(run.name in labels for run in runs)
    assert (overview(runs).title, overview(runs[:1]).title) == ("Side by side", "At a glance")


def test_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path)


def test_a_report_replaces_the_one_before_and_leaves_no_draft(tmp_path):
    write_report([RunData("first", Path())], tmp_path)
    page = write_report([RunData("second", Path())], tmp_path)
    assert "second" in page.read_text()
    assert "first " not in " ".join(read(page).text[:5])
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name", ["$a^{b$", "$x$ _y", "_hidden", "a\\$b"])
def test_names_are_drawn_as_they_are(make, name):
    run = make(name=name)
    run = replace(
        run,
        interventions=tuple(replace(event, kind=name, phase=name) for event in run.interventions),
        phases=((0, name),),
        parameters={f"{name}.{key}": value for key, value in run.parameters.items()},
        prunable=frozenset(f"{name}.{key}" for key in run.prunable),
        predictions=replace(run.predictions, names=(name[:9],) * 10),
    )
    texts = [text for part in sections([run]) for picture in part.pictures for text in picture.figure.findobj(Text)]
    shown = [text for text in texts if name[:9] in text.get_text().replace(r"\$", "$")]
    assert len(shown) >= 8
    for text in shown:
        drawn, formula = text._preprocess_math(text.get_text())
        assert not formula
        assert name[:9] in drawn
    for part in sections([run]):
        for picture in part.pictures:
            picture.figure.draw_without_rendering()
