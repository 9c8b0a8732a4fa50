"""A function whose package is missing says in one line what to install."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from surgecollapse.analysis.alignment import align
from surgecollapse.export import load_sparse, save_sparse
from surgecollapse.record import plot
from surgecollapse.report.page import write_report


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("safetensors", "export", lambda folder: save_sparse({"w": torch.eye(2)}, folder / "x.safetensors")),
        ("safetensors", "export", lambda folder: load_sparse(folder / "x.safetensors")),
        ("scipy", "analysis", lambda _: align(nn.Linear(2, 2), nn.Linear(2, 2), torch.ones(1, 2))),
        ("matplotlib", "plots", lambda _: plot._shown_kind.__wrapped__()),
        ("sklearn", "lab", lambda folder: write_report([folder], folder)),
    ],
    ids=["save", "load", "align", "plot", "report"],
)
def test_a_missing_package_is_named_with_its_extra(package, extra, call, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}.*: pip install 'surgecollapse\[{extra}\]'"):
        call(tmp_path)
