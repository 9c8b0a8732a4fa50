"""What the report computes, against closed forms and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import auc, f1_score, roc_auc_score

from surgecollapse.events import Intervention
from surgecollapse.report.classification import evaluate, rocs, shown_classes
from surgecollapse.report.energy import path_of_sparsity
from surgecollapse.report.fourier import input_spectrum, radial_spectrum, spectrum, token_spectrum, token_table
from surgecollapse.report.rundata import Curve, Predictions, RunData
from surgecollapse.report.spectrum import cutoff_of, parts_of
from surgecollapse.report.summary import prunable_names, summarize, table
from surgecollapse.report.trajectory import between, project
from surgecollapse.report.weights import split_zeros


def predictions(classes: int, rows: int = 300, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.standard_normal((rows, classes)) + 1.5 * (labels[:, None] == np.arange(classes))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Predictions(labels, scores, tuple(map(str, range(classes))), "test")


def test_averages_of_the_roc_are_those_of_scikit_learn():
    p = predictions(5)
    _, macro, micro = rocs(p)
    assert macro is not None
    assert micro is not None
    assert macro.area == pytest.approx(roc_auc_score(p.labels, p.scores, multi_class="ovr", average="macro"))
    hot = p.labels[:, None] == np.arange(5)
    assert micro.area == pytest.approx(roc_auc_score(hot, p.scores, average="micro"))


def test_the_drawn_macro_curve_has_about_the_area_that_is_stated():
    _, macro, _ = rocs(predictions(5))
    assert macro is not None
    assert auc(macro.false, macro.true) == pytest.approx(macro.area, abs=0.005)


def test_two_classes_have_one_curve_and_the_area_of_the_second_class():
    p = predictions(2)
    curves, macro, _ = rocs(p)
    assert list(curves) == [1]
    assert macro is not None
    assert macro.area == pytest.approx(roc_auc_score(p.labels, p.scores[:, 1]))


def test_a_class_that_never_occurs_is_left_out_of_the_averages():
    p = predictions(4)
    some = p.labels != 3
    partial = Predictions(p.labels[some], p.scores[some], p.names, "test")
    curves, _, _ = rocs(partial)
    assert list(curves) == [0, 1, 2]
    scores = evaluate(partial)
    assert scores.support[3] == 0
    assert scores.macro[2] == pytest.approx(
        f1_score(partial.labels, partial.predicted, labels=[0, 1, 2], average="macro")
    )


def test_one_class_only_has_no_roc():
    p = predictions(3)
    same = Predictions(np.zeros_like(p.labels), p.scores, p.names, "test")
    assert rocs(same) == ({}, None, None)
    assert evaluate(same).auc_macro is None


def test_of_many_classes_the_worst_are_listed():
    p = predictions(97, rows=2_000)
    scores = evaluate(p)
    order = shown_classes(scores, [scores])
    assert len(order) == 10
    assert scores.f1[order].max() <= np.delete(scores.f1, order).min()


def test_the_plane_is_that_of_principal_components():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((40, 7)) * np.arange(1, 8)
    plane = project([points[:15], points[15:]])
    reference = PCA(2, svd_solver="full").fit(points)
    np.testing.assert_allclose(plane.explained, reference.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.concatenate(plane.paths)), np.abs(reference.transform(points)), atol=1e-9)
    assert [len(path) for path in plane.paths] == [15, 25]


def test_a_flat_path_is_projected_with_its_distances():
    rng = np.random.default_rng(1)
    flat = rng.standard_normal((20, 2))
    frame = np.linalg.qr(rng.standard_normal((50, 2)))[0]
    path = project([flat @ frame.T]).paths[0]
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(path[:, None] - path[None], axis=-1), gaps, atol=1e-9)


def test_a_path_that_stands_still_has_no_direction():
    assert project([np.ones((3, 5))]).explained == (0.0, 0.0)


def test_points_between_are_linear_and_stay_on_the_path():
    path = np.array([[0.0, 0.0], [2.0, 4.0], [2.0, 0.0]])
    assert between(np.array([0, 10, 20]), path, [5, 15, 99]).tolist() == [[1, 2], [2, 2], [2, 0]]


@pytest.mark.parametrize("modulus", [7, 8, 97])
def test_a_token_table_of_one_frequency_has_one_peak(modulus):
    tokens = np.arange(modulus)
    table_ = np.stack([np.cos(2 * np.pi * 3 * tokens / modulus), np.sin(2 * np.pi * 3 * tokens / modulus)], axis=1)
    share = token_spectrum(table_ + 5.0)
    assert len(share) == modulus // 2
    assert share[2] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "shape", "vocabulary"),
    [("tokens.weight", (99, 128), 99), ("hidden.weight", (256, 396), 99), ("body.1.weight", (256, 194), 0)],
)
def test_the_token_table_is_found_in_every_net_for_modular_tasks(name, shape, vocabulary):
    weight = np.random.default_rng(0).standard_normal(shape)
    found = token_table({"bias": np.zeros(97), name: weight, "head.weight": np.ones((97, 256))}, 97, vocabulary)
    assert found is not None
    assert found[0] == name
    expected = weight[:97] if name == "tokens.weight" else weight[:, :97].T
    np.testing.assert_array_equal(found[1], expected)


def test_white_filters_have_a_flat_radial_spectrum():
    filters = np.random.default_rng(0).standard_normal((4_000, 8, 8))
    _, share = radial_spectrum(filters)
    np.testing.assert_allclose(share, 1 / len(share), rtol=0.05)


def test_smooth_filters_have_their_power_at_low_frequencies():
    x = np.linspace(-1, 1, 28)
    blob = np.exp(-4 * (x[:, None] ** 2 + x[None] ** 2))
    rings, share = radial_spectrum(blob[None])
    assert share[rings < 0.1].sum() > 0.99


def test_weights_that_alternate_have_their_power_at_the_highest_frequency():
    frequencies, share = input_spectrum(np.tile([1.0, -1.0], (3, 8)))
    assert frequencies[-1] == 0.5
    assert share[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"parameters": {"w": np.ones((8, 20))}, "modulus": 10}, "tokens"),
        ({"parameters": {"w": np.eye(64)}, "image": (8, 8)}, "image"),
        ({"parameters": {"w": np.ones((4, 1, 3, 3))}, "image": (8, 8)}, "image"),
        ({"parameters": {"w": np.eye(43)}}, "inputs"),
    ],
)
def test_the_transform_suits_the_task(fields, kind):
    found = spectrum(RunData("run", Path(), **fields))
    assert found is not None
    assert found.kind == kind
    assert found.power.sum() == pytest.approx(1.0) or found.power.sum() == 0


def test_zeros_are_told_from_weights_that_are_not_finite():
    live, zeros, bad = split_zeros(np.array([[0.0, 1.0], [np.inf, np.nan]]))
    assert live.tolist() == [1.0]
    assert (zeros, bad) == (0.25, 2)


def test_size_counts_non_zeros_and_one_bit_for_each_entry(make):
    weight = np.zeros((8, 8), np.float32)
    weight[0] = 1.0
    run = replace(make(), parameters={"w": weight, "b": np.ones(3, np.float32)}, prunable=frozenset({"w"}))
    assert summarize(run).size == 8 * 4 + 8 + 12


def test_the_plain_run_is_measured_on_what_the_other_prunes(pair):
    plain, sparse = pair
    assert prunable_names(plain, pair) == sparse.prunable
    assert summarize(plain, pair).sparsity == 0.0
    assert summarize(sparse, pair).sparsity == pytest.approx(0.9, abs=0.001)


def test_the_small_table_has_one_row_for_each_run_in_text(pair):
    rows = table(pair)
    assert [row["run"] for row in rows] == ["plain", "surge-collapse"]
    assert rows[1]["sparsity"] == "90.00 %"
    assert rows[1]["interventions"] == str(len(pair[1].interventions))
    assert rows[0]["accuracy"].endswith(" %")


def test_runs_of_one_name_are_numbered(make):
    assert [row["run"] for row in table([make("a"), make("a"), make("b")])] == ["a 1", "a 2", "b"]


def test_thinning_keeps_the_mean_and_the_last_step():
    steps = np.arange(1, 1_001)
    curve = Curve(steps, steps.astype(float)).thinned(100)
    assert len(curve.steps) == 100
    assert curve.steps[-1] == 1_000
    assert curve.values.mean() == pytest.approx(steps.mean())


def test_sparsity_is_a_staircase_of_the_interventions():
    def event(step, before, after):
        return Intervention(step=step, kind="collapse", phase="sparse", reason="", sparsity_before=before,
                            sparsity_after=after)  # fmt: skip

    run = RunData(
        "run", Path(), steps=30, interventions=(event(10, 0.0, 0.5), event(20, 0.5, 0.5), event(25, 0.5, 0.9))
    )
    assert path_of_sparsity(run) == ([0, 10, 10, 25, 25, 30], [0.0, 0.0, 0.5, 0.5, 0.9, 0.9])


def test_the_path_is_taken_apart_at_the_runs_own_cut_off(make):
    steps = np.array([*range(0, 600, 10), 595])
    slow, fast = 2 * np.cos(np.pi * (np.arange(60) + 0.5) / 60), 0.5 * np.cos(np.pi * 40 * (np.arange(60) + 0.5) / 60)
    sketches = np.append(slow + fast, 99.0)[:, None] * np.ones((1, 4))
    run = replace(make(), sketch=(steps, sketches), config={"grokfast": "ema", "grokfast_alpha": 0.9})
    parts = parts_of(run)
    assert parts.cutoff == pytest.approx(0.0168, rel=1e-2)
    assert np.array_equal(parts.steps, steps[:-1]), "the odd distance at the end is left out"
    assert np.allclose(parts.slow, 2 * np.abs(slow - slow[0]))
    assert np.allclose(parts.fast, 2 * np.abs(fast))
    assert parts.spectrum.slow_share(parts.cutoff) == pytest.approx(4 / 4.25)
    assert cutoff_of({"grokfast": "ma", "grokfast_window": 100})[0] == pytest.approx(0.00443, rel=1e-2)
    assert parts_of(replace(run, sketch=(steps[:5], sketches[:5]))) is None
    assert parts_of(replace(run, sketch=None)) is None
