"""Variants on QM9 train as one batched model: each is the run that it would be alone, by the published rule."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from surgecollapse.attaching.transforms import transform_gradients
from surgecollapse.gradients.grokfast import Grokfast
from surgecollapse.lab.data.qm9 import packed
from surgecollapse.lab.nets.gnn import GraphNet

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "grokfast_levels.py"


@pytest.fixture
def levels(monkeypatch):
    spec = importlib.util.spec_from_file_location("grokfast_levels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def made_up(plain):
    """A hundred chains of two to four atoms; ``plain`` ones have no hybridization."""
    draws = torch.Generator().manual_seed(0)
    graphs = []
    for i in range(100):
        count = 2 + i % 3
        atoms, bonds = torch.zeros(count, 11), torch.zeros(count, 4, count)
        atoms[torch.arange(count), torch.randint(5, (count,), generator=draws)] = 1.0
        atoms[:, 9] = 0.0 if plain else 1.0
        for a in range(count - 1):
            bonds[a, 0, a + 1] = bonds[a + 1, 0, a] = 1.0
        graphs.append((atoms, bonds))
    return packed(graphs, 4), 6 + 40 * torch.rand(100, generator=draws)


def alone(levels, variant, seed, steps):
    """The least mean of one run in a plain loop, with the library's filter."""
    x, y = made_up(variant.plain)
    order = levels.split_of(variant, seed)
    x, y = x[order], y[order]
    torch.manual_seed(seed)
    model = GraphNet()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(variant.scale)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01 if variant.filtered else 0.0)
    if variant.filtered:
        transform_gradients(optimizer, [Grokfast(alpha=0.9, lamb=1.0)])
    draws, least = torch.Generator().manual_seed(0), math.inf
    for _ in range(steps // 2):
        rows = torch.rand(1, 50, generator=draws).argsort(1)[0]
        for part in (rows[:32], rows[32:]):
            optimizer.zero_grad()
            (model(x[part]).squeeze(1) - y[part]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            least = min(least, (model(x[50:]).squeeze(1) - y[50:]).square().mean().item())
    return least


@pytest.mark.parametrize("name", ["our reproduction", "no aromaticity, no hybridization", "no filter, no weight decay"])
def test_a_batched_run_is_the_run_alone(levels, monkeypatch, name):
    monkeypatch.setattr(levels, "molecules", made_up)
    (row,) = levels.train_molecules([(name, 1)], 12)
    assert row["least_mean"] == pytest.approx(alone(levels, levels.QM9[name], 1, 12), rel=2e-3)
    assert row["least_batch"] < row["least_mean"]


def test_standardized_targets_divide_the_loss_by_the_variance_of_the_training_targets(levels, monkeypatch):
    monkeypatch.setattr(levels, "molecules", made_up)
    plain, standardized = levels.train_molecules([("our reproduction", 0), ("targets standardized", 0)], 2)
    order = levels.split_of(levels.QM9["our reproduction"], 0)
    variance = made_up(False)[1][order[:50]].var().item()
    assert plain["variance"] == pytest.approx(standardized["variance"] * variance, rel=2e-3)


def test_the_published_split_is_the_one_that_its_seed_draws(levels):
    torch.manual_seed(0)
    train, _ = torch.utils.data.random_split(range(100), [50, 50])
    both = [levels.split_of(levels.Molecules(split=True), seed) for seed in (0, 7)]
    assert both[0].tolist() == both[1].tolist()
    assert both[0][:50].tolist() == list(train.indices)


def test_words_are_cut_as_the_published_code_cuts_them(levels):
    assert levels.published_words("It wasn't <b>bad</b>, 7/10 -- really") == ["it", "wasnt", "bbadb", "really"]
    assert "not" in levels.NLTK.split()
    assert "wasnt" not in levels.NLTK.split()


def test_rows_of_unlike_length_are_in_tables_of_their_own(levels):
    row = {"task": "qm9", "variant": "our reproduction", "least_mean": 4.0, "least_batch": 1.0}
    text = levels.page([{**row, "steps": 200}, {**row, "steps": 200, "least_mean": 8.0}, {**row, "steps": 1_000}])
    assert "qm9, 200 steps" in text
    assert "| our reproduction | 2 | 6 (4–8) | 1 (1–1) |" in text
    assert text.index("qm9, 1,000 steps") < text.index("| our reproduction | 1 | 4 | 1 |")
