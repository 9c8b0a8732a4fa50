"""The probe batch: what is kept, that it is the library's own, and which layers it finds to produce the output."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from surgecollapse.observe.probe import PROBE_ROWS, Probe


class Several(nn.Module):
    """Outputs in a dict, from heads on one trunk."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.trunk, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = torch.tanh(self.trunk(x))
        a, b = self.a(h), self.b(h)
        return {"dict": {"a": a, "b": b}, "tuple": (a, [b]), "last": torch.sigmoid(b) + 0 * a}[self.kind]


def test_equal_widths_do_not_make_every_layer_an_output_layer():
    """A freed activation's memory is used again by the output: that must not look like sharing."""
    for width, rows in ((8, 64), (64, 7), (512, 64)):
        layers = [part for _ in range(5) for part in (nn.Linear(width, width), nn.ReLU())]
        model = nn.Sequential(*layers, nn.Linear(width, width))
        assert Probe(torch.randn(rows, width)).output_layers(model) == ("10",)


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_every_head_that_is_returned_is_found(kind):
    assert sorted(Probe(torch.randn(5, 4)).output_layers(Several(kind))) == ["a", "b"]


def test_where_the_output_is_computed_further_every_layer_that_it_is_computed_of_counts():
    assert sorted(Probe(torch.randn(5, 4)).output_layers(Several("last"))) == ["a", "b"]


def test_a_reshaped_output_is_still_the_layers_own():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Unflatten(1, (2, 3)))
    assert Probe(torch.randn(5, 4)).output_layers(model) == ("2",)


def test_a_convolution_can_produce_the_output():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert Probe(torch.randn(5, 1, 6, 6)).output_layers(model) == ("3",)


def test_norms_and_embeddings_after_the_head_are_not_the_head():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4))
    assert Probe(torch.randn(5, 4)).output_layers(model) == ("2",)


def test_a_parametrized_head_is_found():
    head = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    assert Probe(torch.randn(5, 4)).output_layers(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), head)) == ("2",)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_submodule_has_its_canonical_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), torch.compile(nn.Linear(4, 2), backend="eager"))
    assert Probe(torch.randn(5, 4)).output_layers(model) == ("2",)


class Takes(nn.Module):
    """Remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, *args, **kwargs):
        self.got = args, kwargs
        return self.linear(next(iter([*args, *kwargs.values()])))


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_a_given_probe_is_called_as_the_model_is_and_copied(form):
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    batch = {"tensor": x, "tuple": (x, y), "dict": {"x": x, "y": y}}[form]
    probe, model = Probe(batch), Takes()
    was = x.clone()
    x.zero_()  # the user's buffer is the user's
    probe.forward(model)
    args, kwargs = model.got
    assert torch.equal(next(iter([*args, *kwargs.values()])), was)
    assert (len(args), sorted(kwargs)) == {"tensor": (1, []), "tuple": (2, []), "dict": (0, ["x", "y"])}[form]


def test_a_probe_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"tensor, a tuple of arguments or a dict.*got str"):
        Probe("batch")


def test_the_first_rows_of_every_batched_input_are_kept_and_nothing_is_shared():
    rows = PROBE_ROWS + 6
    x, mask, scale = torch.randn(rows, 3), torch.ones(rows, dtype=torch.bool), torch.tensor(2.0)
    table, state = torch.randn(5, 5), (torch.zeros(rows, 2), torch.ones(rows, 2))
    probe, model = Probe(), Takes()
    assert not probe.known
    probe.capture((x, state), {"mask": mask, "scale": scale, "table": table, "flag": True})
    probe.capture((torch.zeros(2, 3),), {})  # only the first batch counts
    was = x.clone()
    x.zero_()
    probe.forward(model)
    (got, pair), kwargs = model.got
    assert torch.equal(got, was[:PROBE_ROWS])
    assert isinstance(pair, tuple)
    assert [t.shape[0] for t in pair] == [PROBE_ROWS, PROBE_ROWS]
    assert kwargs["mask"].shape == (PROBE_ROWS,)
    assert kwargs["scale"].item() == 2.0
    assert torch.equal(kwargs["table"], table)
    assert kwargs["flag"] is True


def test_a_saved_probe_is_the_same_batch_and_safe_to_load():
    probe, twin = Probe(), Probe()
    probe.capture((torch.randn(9, 3), (torch.ones(9), [2])), {"y": torch.arange(9)})
    buffer = io.BytesIO()
    torch.save(probe.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    a, b = Takes(), Takes()
    probe.forward(a)
    twin.forward(b)
    assert torch.equal(a.got[0][0], b.got[0][0])
    assert isinstance(b.got[0][1], tuple)
    assert torch.equal(a.got[1]["y"], b.got[1]["y"])


class Precision(nn.Module):
    """Notes the precision in which its layer ran."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        out = self.linear(x)
        self.dtype = out.dtype
        return out


def test_the_probe_runs_under_the_autocast_of_the_batch_that_it_came_from():
    """Inputs in half precision into float32 weights are an error anywhere else."""
    model, probe, twin = Precision(), Probe(), Probe()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe.capture((torch.randn(4, 3, dtype=torch.bfloat16),), {})
    probe.forward(model)
    assert model.dtype == torch.bfloat16
    buffer = io.BytesIO()
    torch.save(probe.state_dict(), buffer)
    buffer.seek(0)
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    twin.forward(model)
    assert model.dtype == torch.bfloat16


def test_a_probe_inside_an_autocast_region_sees_the_weights_as_they_are_and_spoils_no_gradient():
    model, probe, x = Precision(), Probe(), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe.capture((x,), {})
        model(x)  # autocast now remembers these weights
        with torch.no_grad():
            model.linear.weight.zero_()
            model.linear.bias.zero_()
        assert not probe.forward(model).any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe.forward(model)
        model(x).sum().backward()
    assert model.linear.weight.grad.abs().sum() > 0
