"""Names of every kind, as the command lists them."""

from __future__ import annotations

import pytest

from command_line import fails
from surgecollapse.cli import main
from surgecollapse.lab.tasks.registry import TASKS


@pytest.mark.parametrize(
    ("kind", "known", "about"),
    [
        ("tasks", "digits", "The digits of scikit-learn."),
        ("experiments", "nanda-modular", "Nanda et al., arXiv 2301.05217."),
        ("models", "mlp", ""),
        ("policies", "rigl", "Sparse from the first step"),
        ("methods", "gmp", ""),
        ("suites", "quick", ""),
        ("optimizers", "muon", "Muon for hidden matrices"),
        ("monitors", "norms", "Euclidean norms"),
        ("criteria", "lamp", ""),
        ("analyses", "fourier", "Fourier"),
        ("trackers", "wandb", ""),
        ("keys", "optimizer.lr", ""),
    ],
)
def test_names_of_every_kind_are_listed_with_what_they_are(kind, known, about, capsys):
    assert main(["list", kind]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == [known]]
    assert len(line.split()) > 1
    assert about.split(",")[0] in line
    assert ":class:" not in line


def test_names_are_listed_by_kind_in_lines_that_fit(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"tasks ({len(TASKS.names())})\n  coco-captions, coco-detection, digits" in said
    assert max(map(len, said.splitlines())) <= 100
    assert "unknown kind of name 'task': expected one of tasks, experiments" in fails(capsys, "list", "task")
