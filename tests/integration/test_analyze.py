"""``surgecollapse analyze``: from runs to results, pictures and a page; mistakes are one line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from surgecollapse.analysis.local_learning_coefficient import local_learning_coefficient
from surgecollapse.cli import MISTAKE, main
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.checkpoint import load_checkpoint, save_checkpoint
from surgecollapse.lab.training.run import train
from surgecollapse.report.analyses import ANALYSES, NotApplicable, analyze
from surgecollapse.report.analyses.loaded_run import LoadedRun

pytest.importorskip("matplotlib")

MODULAR = {"task": "modular", "model": "mlp", "modulus": 11, "train_fraction": 0.6, "policy": "none", "batch_size": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two small nets of other widths on one task, with all checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    for name, width in (("narrow", 24), ("wide", 48)):
        plan = make_config(
            **MODULAR, widths=(width,), lr=0.01, steps=60, evaluate_every=5, checkpoint_every=20, keep_checkpoints=0
        )
        train(plan, folder / name)
    return folder


def test_all_checkpoints_are_kept_where_asked(runs):
    kept = sorted(path.name for path in (runs / "narrow" / "checkpoints").glob("step-*.pt"))
    assert kept == ["step-20.pt", "step-40.pt", "step-60.pt"]


def test_a_subject_gives_the_initial_net_and_each_checkpoint(runs):
    run = LoadedRun(runs / "narrow", "narrow", samples=30)
    states = {step: {k: v.clone() for k, v in net.state_dict().items()} for step, net in run.nets()}
    assert tuple(states) == run.steps == (0, 20, 40, 60)
    assert not torch.equal(states[0]["head.weight"], states[20]["head.weight"])
    assert torch.equal(states[60]["head.weight"], run.model.state_dict()["head.weight"])
    assert len(run.training[0]) == 30
    assert LoadedRun(runs / "narrow", "narrow", times=2).steps == (0, 60)


def test_the_command_writes_results_pictures_and_one_page(runs, tmp_path, capsys):
    out = tmp_path / "out"
    what = "cka,neural_collapse,heavy_tails,dimension,fourier,progress,information,universality,surface,density,llc"
    words = ["analyze", str(runs / "narrow"), str(runs / "wide"), "--what", what, "--out", str(out), "--samples", "40"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "index.html" in said
    page = (out / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    stems = {path.stem for path in out.glob("*.json")}
    assert stems == {path.stem for path in out.glob("*.png")}
    assert {
        "cka-1",
        "cka-layers-2",
        "cka-nets-2",
        "neural_collapse-2",
        "heavy_tails-1",
        "dimension-1",
        "fourier-2",
        "progress-1",
        "surface-1",
        "density-2",
    } <= stems
    assert all(f"p-{stem}" in page for stem in stems)
    fourier = json.loads((out / "fourier-1.json").read_text(encoding="utf-8"))
    assert fourier["steps"] == [0, 20, 40, 60]
    assert sum(fourier["power"][-1]) == pytest.approx(1.0)
    progress = json.loads((out / "progress-2.json").read_text(encoding="utf-8"))
    assert progress["steps"] == [0, 20, 40, 60]
    assert len(progress["frequencies"]) == 5
    assert progress["phases"][0][0] == "memorization"
    assert json.loads((out / "cka-1.json").read_text(encoding="utf-8"))["to_last"][0][-1] == pytest.approx(1.0)


def test_paths_go_from_the_start_of_one_run_or_to_a_net_of_the_same_shape(runs, tmp_path):
    (one,) = analyze([runs / "narrow"], ["connectivity"], out=tmp_path / "one", samples=40).findings
    run = LoadedRun(runs / "narrow", "narrow", samples=40)
    x, y, criterion = run.batch
    assert one.result.losses[-1] == pytest.approx(criterion(run.model(x), y).item(), rel=1e-5)
    assert one.result.losses[0] > one.result.losses[-1]
    with pytest.raises(ConfigError, match="the same shape"):
        analyze([runs / "narrow", runs / "wide"], ["connectivity"], samples=40)
    straight, curve, aligned = analyze([runs / "wide"] * 2, ["connectivity"], out=tmp_path / "two", samples=40).findings
    assert straight.result.barrier == pytest.approx(0.0, abs=1e-5)
    assert aligned.result.barrier == pytest.approx(0.0, abs=1e-5)
    assert curve.result.losses[0] == pytest.approx(straight.result.losses[0], rel=1e-5)


def test_by_default_all_that_apply_are_run_and_the_rest_is_named(runs):
    found = analyze([runs / "narrow"], samples=40)
    assert found.page == runs / "narrow" / "analysis" / "index.html"
    assert {one.stem for one in found.findings} >= {"cka", "neural_collapse", "dimension", "fourier"}
    assert "universality" in dict(found.skipped)


def test_analyzing_leaves_the_run_as_it_was(runs):
    files = {path: path.read_bytes() for path in (runs / "wide").rglob("*") if path.suffix in (".pt", ".toml", ".db")}
    before = torch.get_rng_state()
    analyze([runs / "wide"], ["cka", "neural_collapse"], samples=40)
    assert all(path.read_bytes() == content for path, content in files.items())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what", "cca"], "Did you mean 'cka'"),
        (["--samples", "3"], "at least 16 samples"),
        (["--what", "universality"], "nothing to analyze: universality"),
    ],
)
def test_mistakes_are_one_line(runs, words, message, capsys):
    assert main(["analyze", str(runs / "narrow"), *words]) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_run_and_no_such_run_are_said(tmp_path, capsys):
    assert main(["analyze"]) == MISTAKE
    assert main(["analyze", str(tmp_path)]) == MISTAKE
    assert "holds no run" in capsys.readouterr().err


def test_an_analysis_of_ones_own_is_an_entry_of_the_table(runs, monkeypatch):
    def mine(subjects):
        raise NotApplicable(f"nothing in {subjects[0].name}")

    monkeypatch.setitem(ANALYSES, "mine", mine)
    with pytest.raises(ConfigError, match="mine: nothing in narrow"):
        analyze([runs / "narrow"], ["mine"])


@pytest.fixture(scope="module")
def diverged(runs, tmp_path_factory):
    """A copy of a run of which one entry of one layer is NaN from step 40 on."""
    folder = tmp_path_factory.mktemp("diverged") / "diverged"
    shutil.copytree(runs / "narrow", folder, ignore=shutil.ignore_patterns("analysis"))
    for step in (40, 60):
        state = load_checkpoint(folder / "checkpoints" / f"step-{step}.pt")
        state["model"]["head.weight"][0, 0] = torch.nan
        save_checkpoint(folder / "checkpoints" / f"step-{step}.pt", state)
    return folder


@pytest.mark.parametrize("what", ANALYSES)
def test_one_layer_that_is_nan_neither_ends_an_analysis_nor_passes_for_a_result(runs, diverged, what, tmp_path):
    broken = "head.weight (1 of 264)"
    both = [runs / "narrow", diverged]
    if what == "connectivity":  # which needs both nets
        with pytest.raises(ConfigError, match=re.escape(broken)):
            analyze(both, [what], out=tmp_path, samples=40)
        return
    found = analyze(both, [what], out=tmp_path, samples=40)
    assert found.diverged == (f"diverged has diverged: not finite are {broken}",)
    assert broken in found.page.read_text(encoding="utf-8")
    own = [one for one in found.findings if one.subject == "diverged"]
    assert any(one.subject == "narrow" for one in found.findings) or what == "universality"
    assert not any(re.search(r"\bnan\b", one.said) for one in found.findings)
    if not own and what != "universality":
        assert dict(found.skipped)[what].startswith("diverged: ")
    for one in own:
        json.loads((tmp_path / f"{one.stem}.json").read_text(encoding="utf-8"))


def test_a_diagnostic_that_fails_is_said_instead_of_the_number(runs, tmp_path, monkeypatch):
    from surgecollapse.report.analyses import landscape

    def unmixed(*args, **options):
        return replace(local_learning_coefficient(*args, **options), r_hat=1.25)

    monkeypatch.setattr(landscape, "local_learning_coefficient", unmixed)
    (one,) = analyze([runs / "narrow"], ["llc"], out=tmp_path, samples=40).findings
    assert one.said.startswith("not determined: the chains have not mixed: R̂ = 1.25")
    assert "the step itself" not in one.caption
    (tails,) = analyze([runs / "narrow"], ["heavy_tails"], out=tmp_path, samples=40).findings
    for layer in tails.result.layers:
        assert (f"{layer.layer}: {layer.doubt}" in tails.said) == bool(layer.doubt)


def test_analyses_of_a_masked_net_move_its_open_weights_alone(tmp_path, monkeypatch):
    from surgecollapse.report.analyses import landscape

    folder = tmp_path / "sparse"
    train(make_config(**{**MODULAR, "policy": "one_shot"}, sparsity=0.8, widths=(24,), steps=30), folder)
    run = LoadedRun(folder, "sparse", samples=40)
    (name,) = run.masks
    weight = run.model.get_parameter(name)
    assert torch.equal(run.masks[name], weight != 0)
    seen = {}
    for analysis in ("local_learning_coefficient", "loss_surface"):
        whole = getattr(landscape, analysis)

        def spy(*args, whole=whole, analysis=analysis, **options):
            seen[analysis] = options["masks"]
            return whole(*args, **options)

        monkeypatch.setattr(landscape, analysis, spy)
    found = analyze([folder], ["llc", "surface", "density"], samples=40)
    assert all(torch.equal(masks[name], run.masks[name]) for masks in seen.values())
    assert len(seen) == 2
    (spectrum,) = [one.result for one in found.findings if one.stem == "density"]
    closed = int((weight == 0).sum())
    assert spectrum.size == sum(p.numel() for p in run.model.parameters()) - closed
