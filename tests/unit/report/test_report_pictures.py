"""Every picture: readable, nothing over anything else, and no trace left in matplotlib's settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.legend import Legend
from matplotlib.text import Text

from surgecollapse.events import Intervention
from surgecollapse.report import classification, compare, curves, energy, fourier, timeline, trajectory, weights
from surgecollapse.report.page import sections
from surgecollapse.report.rundata import Curve, Predictions, RunData
from surgecollapse.report.style import LINES, MARKS, RUNS, save_png, settle, to_svg


def many_events(run, count=300):
    events = tuple(
        Intervention(step=5 * i, kind="collapse" if i % 2 else "surge", phase="sparse" if i % 2 else "open",
                     reason="r", sparsity_before=0.1, sparsity_after=0.2, energy_before=2.0, energy_after=1.0)
        for i in range(1, count)
    )  # fmt: skip
    return replace(run, interventions=events, phases=tuple((e.step, e.phase) for e in events))


def many_layers(run):
    readings = tuple(
        replace(
            r, layers=tuple(replace(r.layers[0], layer=f"transformer.blocks.{i}.mlp.activation") for i in range(30))
        )
        for r in run.readings
    )
    parameters = {f"transformer.blocks.{i}.mlp.weight": np.ones((4, 4)) * i for i in range(30)}
    return replace(run, readings=readings, parameters=parameters, gradients=parameters)


def many_classes(run, classes=97):
    rng = np.random.default_rng(0)
    scores, names = rng.dirichlet(np.ones(classes), 500), tuple(map(str, range(classes)))
    return replace(run, predictions=Predictions(rng.integers(0, classes, 500), scores, names, "test"))


def long_names(run):
    names = tuple(f"a rather long class {i}" for i in range(10))
    return replace(run, predictions=replace(run.predictions, names=names))


# What is done to the run, and the parts of the page that can look different for it; none named is all.
CASES = {
    "as usual": (lambda run: run, ()),
    "many events": (many_events, ("summary", "entropy", "energy", "trajectory")),
    "many layers": (many_layers, ("entropy", "weights", "fourier")),
    "many classes": (many_classes, ("classification",)),
    "long names": (long_names, ("classification",)),
    "a loss of one value": (
        lambda run: replace(run, measurements={"loss/train": Curve(np.array([1]), np.array([0.5]))}),
        ("summary", "learning", "energy"),
    ),
    "not finite": (
        lambda run: replace(
            run,
            measurements={"loss/train": Curve(np.arange(3), np.array([1.0, np.nan, np.inf]))},
            parameters={"w": np.full((8, 8), np.nan)},
            sketch=(np.arange(3), np.full((3, 4), np.nan)),
        ),
        ("summary", "learning", "weights", "trajectory", "fourier"),
    ),
}


@pytest.fixture(params=CASES, scope="module")
def pictures(request, make):
    change, anchors = CASES[request.param]
    runs = [make("plain", "none", 1, sparse=False), change(make())]
    found = [picture for part in sections(runs, anchors) for picture in part.pictures]
    assert found
    for picture in found:
        settle(picture.figure)
    return found


def test_no_text_is_smaller_than_nine_points(pictures):
    small = [
        (picture.name, text.get_text(), text.get_fontsize())
        for picture in pictures
        for text in picture.figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text.get_fontsize() < 9
    ]
    assert not small


def test_no_legend_covers_an_axis_and_no_text_leaves_its_figure(pictures):
    for picture in pictures:
        figure = picture.figure
        renderer = figure.canvas.get_renderer()
        axes = [ax for ax in figure.axes if ax.get_visible()]
        for legend in figure.findobj(Legend):
            box = legend.get_window_extent(renderer)
            assert not any(box.overlaps(ax.get_window_extent(renderer)) for ax in axes), picture.name
            assert box.x1 <= figure.bbox.x1 + 1, f"{picture.name}: the legend is wider than the figure"
        for ax in axes:
            box = ax.get_tightbbox(renderer)
            inside = box.x0 >= -2 and box.y0 >= -2 and box.x1 <= figure.bbox.x1 + 2 and box.y1 <= figure.bbox.y1 + 2
            assert inside, f"{picture.name}: something leaves the figure"


def test_no_two_tick_labels_overlap(pictures):
    for picture in pictures:
        renderer = picture.figure.canvas.get_renderer()
        for ax in picture.figure.axes:
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                boxes = [
                    label.get_window_extent(renderer)
                    for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
                    if label.get_text().strip() and label.get_visible() and low <= place <= high
                ]
                for one, two in pairwise(boxes):
                    assert not one.overlaps(two), f"{picture.name}: tick labels overlap"


def test_every_axis_that_has_data_is_labeled(pair):
    for part in sections(pair):
        for picture in part.pictures:
            words = {text.get_text() for text in picture.figure.findobj(Text) if text.get_text().strip()}
            labels = {ax.get_xlabel() for ax in picture.figure.axes} | {picture.figure.get_supxlabel()}
            assert labels & words - {""}, f"{picture.name} has no label on its horizontal axis"


def test_settings_of_matplotlib_are_as_before(pair):
    before = dict(matplotlib.rcParams)
    for picture in (compare.overview(pair), classification.confusion(pair[0], "x")):
        assert to_svg(picture.figure, "x").startswith("<svg")
    assert dict(matplotlib.rcParams) == before


def test_a_picture_is_laid_out_once_for_all_its_forms(pair, tmp_path, monkeypatch):
    figure = curves.loss(pair).figure
    draws = []
    real = type(figure).draw
    monkeypatch.setattr(type(figure), "draw", lambda self, renderer: (draws.append(1), real(self, renderer)))
    save_png(figure, tmp_path / "loss.png")
    to_svg(figure, "p-loss")
    assert len(draws) == 3, "one to lay it out, one for each form"


def test_neither_pyplot_nor_anything_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys; import surgecollapse.report as r; "
        "assert not {'matplotlib', 'sklearn', 'torch'} & set(sys.modules), 'imported too early'; "
        "import surgecollapse.report.compare, surgecollapse.report.timeline; "
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_lines_and_kinds_are_distinct_without_color():
    assert len({mark for _, mark in RUNS}) == len(RUNS)
    assert len({str(dash) for _, dash in LINES}) == len(LINES)
    assert len({mark for mark, _ in MARKS.values()}) == len(MARKS)


def test_every_intervention_is_drawn_with_the_mark_of_its_kind(make):
    run = make()
    picture = timeline.timeline(run, "entropy")
    assert picture is not None
    rows = picture.figure.axes[-1]
    drawn = {line.get_marker(): sorted(line.get_xdata()) for line in rows.lines}
    for kind, (mark, _) in MARKS.items():
        steps = sorted(event.step for event in run.interventions if event.kind == kind)
        assert drawn.get(mark, []) == steps, kind


def test_a_run_without_anything_has_no_pictures_but_raises_nothing():
    bare = RunData("bare", Path())
    assert curves.loss([bare]) is None
    assert curves.accuracy([bare]) is None
    assert timeline.timeline(bare, "x") is None
    assert energy.energy([bare]) is None
    assert energy.ledger(bare, "x") is None
    assert classification.confusion(bare, "x") is None
    assert classification.roc(bare, "x") is None
    assert classification.per_class([bare]) is None
    assert weights.histograms([bare], "weights") is None
    assert trajectory.trajectory([bare]) is None
    assert fourier.fourier([bare]) is None
    assert compare.overview([bare]) is not None


def test_histograms_take_only_weights_or_gradients(make):
    with pytest.raises(ValueError, match="'weights' or 'gradients'"):
        weights.histograms([make()], "biases")


def test_runs_of_other_shapes_are_not_put_in_one_plane(make):
    steps, sketch = make().sketch
    other = replace(make("other"), sketch=(steps, sketch[:, :7]))
    picture = trajectory.trajectory([make(), other])
    assert picture is not None
    assert "other" not in {line.get_label() for line in picture.figure.axes[0].lines}


def test_the_same_runs_give_the_same_svg(pair):
    first, second = (to_svg(curves.loss(pair).figure, "p-loss") for _ in range(2))
    assert first == second
