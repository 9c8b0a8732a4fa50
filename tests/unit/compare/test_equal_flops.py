"""Rivals at equal training FLOPs, and the small dense network, in plans and tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparisons import prepare
from surgecollapse.compare import Comparison, Entry, Plan, Suite
from surgecollapse.compare.equal_flops import equal_steps
from surgecollapse.compare.methods import METHODS, Method
from surgecollapse.compare.plan import identity, make_cell
from surgecollapse.compare.results import Panel, Score, Tuned, panels
from surgecollapse.compare.rows import Rows
from surgecollapse.compare.table import as_csv, markdown
from surgecollapse.lab.config import ConfigError, as_mapping

ENTRY = Entry(
    label="digits", title="Digits", settings={"task": "digits", "widths": (8,), "steps": 200}, sparsities=(0.9,)
)
SUITE = Suite(name="tiny", description="", entries=(ENTRY,))
TRIALS = ({"lr": 1e-3}, {"lr": 1e-2})
OURS = Method(name="ours", title="Ours", description="", settings={"policy": "cyclic_pruning"}, trials=TRIALS)
RIGL = replace(METHODS["rigl"], trials=TRIALS)
LONGER = METHODS["rigl_equal_flops"]
SMALL = METHODS["small_dense"]
CHOICES = {("digits", name): {"lr": 1e-2} for name in ("ours", "rigl")}
TUNED = {pair: Tuned(settings=settings, record={}) for pair, settings in CHOICES.items()}
PLAN = Plan(suite=SUITE, methods=(OURS, RIGL, LONGER), seeds=2)


def row(cell, flops, **facts):
    config = identity(as_mapping(cell.config))
    known = {"accuracy": 0.7, "mean_density": 0.2, "flops_inference": 0.1, "seconds": 1.0, "sparsity_reached": 0.9}
    return {**cell.facts, **known, "accuracy_validation": 0.7, "flops_training": flops, "wall": 1.0,
            "steps": cell.config.run.steps, "config": config, **facts}  # fmt: skip


def length_in(rows):
    return lambda *place: equal_steps(PLAN, rows, "ours", CHOICES, *place)


def test_steps_cost_what_the_reference_costs_and_are_those_of_the_first_seed(tmp_path):
    rows = Rows(tmp_path)
    assert length_in(rows)(ENTRY, LONGER, 0.9) is None
    short = PLAN.final(CHOICES, length=length_in(rows))
    assert [cell.method for cell in short] == ["ours", "rigl"] * 2
    for cell in short:
        flops = {"ours": 0.3, "rigl": 0.125}[cell.method] + 0.5 * cell.seed
        rows.append(row(cell, flops))
    assert length_in(rows)(ENTRY, LONGER, 0.9) == round(200 * 0.3 / 0.125)
    longer = [cell for cell in PLAN.final(CHOICES, length=length_in(rows)) if cell.method == LONGER.name]
    assert [(cell.seed, cell.config.run.steps, cell.config.optimizer.lr) for cell in longer] == [
        (0, 480, 0.01),
        (1, 480, 0.01),
    ]
    for cell in longer:
        rows.append(row(cell, 0.125, accuracy=0.8))
    (found,) = panels(PLAN, TUNED, rows, "ours")
    assert {score.method.name: len(score.rows) for score in found.scores} == {"ours": 2, "rigl": 2, LONGER.name: 2}
    score = found.of(LONGER.name)
    assert score.settings == {"lr": 1e-2, "steps": 480}
    # Relative to the entry's 200 dense steps, and equal to what the reference took with seed 0.
    assert score.training_flops(ENTRY) == pytest.approx(0.3)
    assert "| RigL, equal FLOPs | 80.00" in markdown([found], "Title", [])
    assert "| 0.300 |" in next(line for line in markdown([found], "", []).splitlines() if "RigL, equal" in line)


def test_a_longer_method_is_not_tuned_and_follows_its_base():
    assert [(method.name, len(cells)) for _, method, cells in PLAN.trials()] == [("ours", 2), ("rigl", 2)]
    assert PLAN.settings_of({}, ENTRY, LONGER) is None
    assert PLAN.settings_of({}, ENTRY, LONGER, guess=True) == TRIALS[0]
    assert replace(PLAN, budget="none").settings_of({}, ENTRY, LONGER) == {}


@pytest.mark.parametrize("names", ["cyclic_pruning,rigl_equal_flops", "rigl,rigl_equal_flops"])
def test_a_longer_method_needs_its_base_and_another_reference(names, tmp_path):
    options = {"reference": "rigl_equal_flops"} if "cyclic" not in names else {}
    with pytest.raises(ConfigError, match="rigl_equal_flops trains rigl for longer: name both, and another reference"):
        prepare("smoke", tmp_path, methods=names, **options)


@pytest.mark.parametrize("budget", ["equal", "2", "none"])
def test_equal_flops_can_be_asked_for_with_any_budget(budget, tmp_path):
    made = prepare("smoke", tmp_path, methods="cyclic_pruning,rigl,rigl_equal_flops", budget=budget, seeds=1)
    assert isinstance(made, Comparison)
    assert made.counts()["tuning"] == {"equal": 16, "2": 4, "none": 0}[budget]


def test_the_small_dense_network_follows_the_target_sparsity():
    cells = [make_cell(ENTRY, SMALL, sparsity, 0, {}) for sparsity in (0.8, 0.9)]
    assert [cell.config.model.shrink_to_sparsity for cell in cells] == [0.8, 0.9]
    assert [cell.sparsity for cell in cells] == [0.8, 0.9]
    assert len({cell.key for cell in cells}) == 2


def test_differences_with_the_small_dense_network_have_a_column():
    def score(method, accuracies):
        rows = {
            seed: row(make_cell(ENTRY, method, 0.9, seed, {}), 0.5, accuracy=a) for seed, a in enumerate(accuracies)
        }
        return Score(method=method, settings={}, rows=rows)

    both = (score(OURS, [0.7, 0.72]), score(SMALL, [0.6, 0.63]))
    panel = Panel(entry=ENTRY, sparsity=0.9, scores=both, reference="ours")
    text = markdown([panel], "Title", [])
    assert "| minus Ours | minus small dense | mean density |" in text
    assert "| **Ours** | 71.00 ± 12.71 | – | +9.50 ± 6.35 |" in text
    assert "| small dense | 61.50 ± 19.06 | −9.50 ± 6.35 | – |" in text
    assert "minus small dense" not in markdown([replace(panel, scores=both[:1])], "Title", [])
    first = as_csv([panel]).splitlines()
    column = first[0].split(",").index("small_dense_difference")
    assert first[1].split(",")[column] == "9.5"
