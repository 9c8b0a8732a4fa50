"""Deployment: networks of a width and the table of forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.studies import deployment


@pytest.mark.parametrize(
    ("net", "width", "expected"),
    [("residual", 2, [32, 64, 128]), ("plain", 0.5, [16, 32, 32]), ("perceptron", 0.25, [256, 256])],
)
def test_networks_have_the_width_that_is_asked_for(net, width, expected):
    model = deployment.build(net, width)
    kinds = (nn.Linear,) if net == "perceptron" else (nn.Conv2d,)
    widths = [module.weight.shape[0] for module in model.modules() if isinstance(module, kinds)]
    assert sorted(set(widths) - {10}) == sorted(set(expected))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def row(seed, threads, accuracy, speed, **energy):
    passes = {
        "1": {"speedup": speed, "milliseconds": 0.5 * speed},
        "64": {"speedup": 2 * speed, "milliseconds": 8 * speed, **energy},
    }
    forms = {
        form: {"accuracy": accuracy, "bytes": 0.25, "passes": passes}
        for form in ("trained", "csr", "compact", "onnx", "onnx_int8")
    }
    config = {"net": "perceptron", "method": "single", "sparsity": 0.9, "seed": seed, "threads": threads}
    return {"config": config, "accuracy": accuracy, "devices": forms}


def test_forms_are_tabled_by_threads_and_images():
    rows = [row(0, 1, 0.9, 1.0, millijoules=3.0), row(1, 1, 0.8, 3.0), row(0, 2, 0.9, 5.0, millijoules=70.0)]
    (table,) = deployment.tables(rows)
    assert table.lines[0][:2] == ["90%", "as trained"]
    # The median of 1 and 3, at 64 images twice as much; one row on two threads; two seeds, of which none counts twice.
    assert table.lines[1][1:2] + table.lines[1][3:] == [
        "sparse rows (CSR)",
        "0.25",
        "1 ms, 2.00×",
        "16 ms, 4.00×",
        "2.5 ms, 5.00×",
        "40 ms, 10.00×",
        "3",
        "2",
    ]
    assert table.lines[1][2].startswith("85.0 ± ")
    (table,) = deployment.tables(rows[:2])
    assert table.lines[1][6:8] == ["–", "–"]


def test_every_form_is_timed_in_milliseconds_and_against_the_dense_net():
    listed = deployment.runs(quick=True)[-1]
    forms = deployment.measure(listed)["devices"]
    assert set(forms) == {"trained", "csr", "compact", "onnx", "onnx_int8"}
    for facts in forms.values():
        assert set(facts["passes"]) == {"1", "64"}
        assert all(timed["milliseconds"] > 0 and timed["speedup"] > 0 for timed in facts["passes"].values())
    assert forms["trained"]["accuracy"] == forms["csr"]["accuracy"]
