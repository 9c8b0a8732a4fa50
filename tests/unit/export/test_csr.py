"""CSR layers: the dense layer's outputs, only where they were measured to be faster, and never in training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from surgecollapse.export import CsrLinear, csr, csr_file, load_csr, load_sparse, save_csr, save_sparse, to_csr
from surgecollapse.export.measure import interleaved_ratios


def sparse_linear(inputs: int, outputs: int, density: float = 0.1, bias: bool = True, dtype=torch.float32) -> nn.Linear:
    draws = torch.Generator().manual_seed(inputs + outputs)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=draws))
        layer.weight.mul_(torch.rand(outputs, inputs, generator=draws) < density)
    return layer


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(sparse_linear(20, 30), nn.ReLU(), sparse_linear(30, 25), nn.ReLU(), nn.Linear(25, 3))


def always(monkeypatch, ratio: float = 2.0) -> None:
    """Let every measurement say the same."""
    monkeypatch.setattr(csr, "interleaved_ratios", lambda first, second, repeats: [ratio] * repeats)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(20,), (1, 20), (7, 20), (0, 20), (2, 3, 20), (1, 1, 20), (2, 0, 20)])
def test_output_is_that_of_the_dense_layer_in_value_shape_and_layout(dtype, bias, density, shape):
    dense = sparse_linear(20, 30, density, bias, dtype)
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    layer = CsrLinear(dense.weight, dense.bias)
    with torch.inference_mode():
        expected, given = dense(x), layer(x)
    torch.testing.assert_close(given, expected)
    assert given.is_contiguous()


def test_inputs_of_any_strides():
    dense = sparse_linear(20, 30)
    layer = CsrLinear(dense.weight, dense.bias)
    wide = torch.randn(40, 40)
    with torch.inference_mode():
        for x in (
            wide[:, ::2],
            wide[:, :20],
            wide.t()[:, 5:25],
            torch.randn(20, 6).t(),
            torch.randn(1, 20).expand(9, 20),
        ):
            torch.testing.assert_close(layer(x), dense(x))


def test_training_is_refused():
    layer = CsrLinear(torch.eye(3), None)
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="for inference"):
        layer(x.clone().requires_grad_())
    layer.train()
    with pytest.raises(RuntimeError, match="for inference"):
        layer(x)
    assert torch.equal(layer.eval()(x), x)


def test_half_precision_is_refused_by_the_layer_and_left_dense_in_a_model():
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.bfloat16"):
        CsrLinear(torch.eye(3).bfloat16(), None)
    result = to_csr(net().bfloat16(), torch.ones(2, 20, dtype=torch.bfloat16), repeats=3)
    assert {layer.form for layer in result.layers} == {"dense"}


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.double().float()]
)
def test_copies_and_casts_compute_the_same(again):
    dense = sparse_linear(20, 30)
    layer = CsrLinear(dense.weight, dense.bias, {1: True, 64: False})
    x = torch.randn(3, 20)
    with torch.no_grad():
        expected = layer(x)
        assert torch.equal(again(layer)(x), expected)


def test_state_dict_round_trip_after_a_forward_pass():
    one, other = (CsrLinear(w, None) for w in (torch.eye(4), 2 * torch.eye(4).flip(0)))
    x = torch.arange(8.0).view(2, 4)
    one(x)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), 2 * x.flip(1))


def test_indices_outside_of_the_matrix_are_refused_rather_than_read():
    layer = CsrLinear(torch.eye(4), None)
    layer.load_state_dict(layer.state_dict() | {"columns": torch.tensor([0, 1, 2, 4000], dtype=torch.int32)})
    with pytest.raises(RuntimeError, match="col_indices"):
        layer(torch.ones(1, 4))


def test_a_layer_with_both_forms_takes_the_one_of_the_nearest_number_of_rows():
    layer = CsrLinear(torch.eye(4), None, {1: True, 16: False, 128: True})
    # Halfway by ratio: √(1·16) = 4 and √(16·128) ≈ 45.3.
    taken = {rows: layer.takes_csr(rows) for rows in (0, 1, 3, 4, 16, 45, 46, 128, 10_000)}
    assert taken == {0: True, 1: True, 3: True, 4: False, 16: False, 45: False, 46: True, 128: True, 10_000: True}
    for rows in taken:
        x = torch.randn(rows, 4)
        assert torch.equal(layer(x), x)


def test_conversion_leaves_the_model_alone_and_returns_a_copy_that_computes_the_same(monkeypatch):
    always(monkeypatch)
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(5, 20)
    result = to_csr(model, x, repeats=3)
    assert [layer.form for layer in result.layers] == ["csr", "csr", "dense"]
    assert result.layers[2].reason == "it has no zeros"
    assert result.converted == 2
    assert result.layers[0].sparsity == 1 - int(model[0].weight.count_nonzero()) / 600
    assert not result.model.training
    assert model.training
    assert all(isinstance(model[i], nn.Linear) and model[i].training for i in (0, 2, 4))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        expected, given = model.eval()(x), result.model(x)
    assert result.max_difference == float((expected - given).abs().max()) < 1e-5


@pytest.mark.parametrize(("ratio", "forms"), [(1.04, {"dense"}), (1.06, {"csr", "dense"})])
def test_a_layer_goes_over_only_from_the_least_speedup_on(monkeypatch, ratio, forms):
    always(monkeypatch, ratio)
    result = to_csr(net(), torch.randn(5, 20), repeats=3)
    assert {layer.form for layer in result.layers} == forms
    assert result.layers[0].speedup == {5: ratio}


def test_a_median_that_a_quarter_of_the_timings_contradict_does_not_count(monkeypatch):
    monkeypatch.setattr(csr, "interleaved_ratios", lambda first, second, repeats: [0.9, 0.9, 1.5, 1.5])
    assert to_csr(net(), torch.randn(5, 20), repeats=4).converted == 0


def test_a_model_that_is_slower_as_a_whole_stays_dense(monkeypatch):
    answers = iter([2.0, 2.0, 0.8])
    monkeypatch.setattr(csr, "interleaved_ratios", lambda first, second, repeats: [next(answers)] * repeats)
    result = to_csr(net(), torch.randn(5, 20), repeats=3)
    assert (result.converted, result.speedup, result.max_difference) == (0, 1.0, 0.0)
    assert "whole model" in result.layers[0].reason
    assert not any(isinstance(module, CsrLinear) for module in result.model.modules())


def test_rows_that_differ_keep_both_forms(monkeypatch):
    def ratios(first, second, repeats):
        return [2.0 if len(first()) < 10 else 0.5] * repeats

    monkeypatch.setattr(csr, "interleaved_ratios", ratios)
    result = to_csr(net(), torch.randn(5, 20), rows=(1, 64), repeats=3)
    assert result.layers[0].form == "both"
    assert result.layers[0].faster == {1: True, 5: True, 64: False}
    x = torch.randn(64, 20)
    with torch.inference_mode():
        assert torch.equal(result.model[0](x), net()[0](x))  # dense, so bit for bit


class Others(nn.Module):
    """One of each kind of layer that stays dense, and one linear layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.unused, self.hooked = sparse_linear(8, 8), sparse_linear(8, 8)
        self.first = sparse_linear(8, 8)
        self.again = self.first
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.view(-1)[::2] = 0
        self.hooked.register_forward_hook(lambda *_: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x) + self.attention(x, x, x)[0]
        return self.again(self.first(self.hooked(input=x)))


def test_layers_that_cannot_be_replaced_are_named_with_the_reason(monkeypatch):
    always(monkeypatch)
    model = Others().eval()
    result = to_csr(model, {"x": torch.randn(3, 4, 8)}, repeats=3)
    reasons = {layer.name: layer.reason for layer in result.layers if layer.form == "dense"}
    assert "convolution" in reasons.pop("conv")
    assert "never calls" in reasons.pop("unused")
    assert "hooks" in reasons.pop("hooked")
    assert set(reasons) == {"attention.out_proj", "block.linear1", "block.linear2", "block.self_attn.out_proj"}
    assert all("weight is read" in reason for reason in reasons.values())
    assert isinstance(result.model.first, CsrLinear)
    assert result.model.again is result.model.first


def test_only_the_named_layers_are_considered(monkeypatch):
    always(monkeypatch)
    assert [layer.name for layer in to_csr(net(), torch.randn(5, 20), layers="2", repeats=3).layers] == ["2"]
    with pytest.raises(ValueError, match=r"'body\.\*' matches none of 0, 2, 4"):
        to_csr(net(), torch.randn(5, 20), layers=["2", "body.*"])


@pytest.mark.parametrize("options", [{"repeats": 2}, {"min_speedup": 0.0}, {"rows": (0,)}])
def test_arguments_out_of_range_are_named(options):
    with pytest.raises(ValueError, match="expected repeats"):
        to_csr(net(), torch.randn(5, 20), **options)


def test_a_model_that_reads_the_weight_says_what_to_do(monkeypatch):
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = sparse_linear(4, 4)

        def forward(self, x):
            return self.linear(x.to(self.linear.weight.dtype))

    always(monkeypatch)
    with pytest.raises(ValueError, match="leave those out of layers="):
        to_csr(Reads(), torch.ones(2, 4), repeats=3)


def test_a_single_layer_is_a_model_too(monkeypatch):
    always(monkeypatch)
    result = to_csr(sparse_linear(20, 30), torch.randn(2, 20), repeats=3)
    assert isinstance(result.model, CsrLinear)


@pytest.mark.parametrize("ratio", [2.0, 0.5])
def test_a_file_gives_the_converted_model_back(tmp_path, monkeypatch, ratio):
    pytest.importorskip("safetensors")
    monkeypatch.setattr(
        csr, "interleaved_ratios", lambda first, second, repeats: [2.0 if len(first()) == 1 else ratio] * repeats
    )
    model, x = net(), torch.randn(5, 20)
    result = to_csr(model, x, rows=(1,), repeats=3)
    written = save_csr(result.model, tmp_path / "net", metadata={"note": "x"})
    loaded = load_csr(net(), tmp_path / "net")
    assert str(loaded) == str(result.model)
    with torch.inference_mode():
        assert torch.equal(loaded(x), result.model(x))
        assert torch.equal(loaded(x[:1]), result.model(x[:1]))
    assert list(load_sparse(tmp_path / "net")) == list(model.state_dict())
    assert written.dense == sum(4 * p.numel() for p in model.parameters())


def test_one_module_at_two_places_is_one_after_loading(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    always(monkeypatch)
    x = torch.randn(3, 4, 8)
    result = to_csr(Others().eval(), x, layers="first", repeats=3)
    save_csr(result.model, tmp_path / "net")
    loaded = load_csr(Others(), tmp_path / "net")
    assert loaded.again is loaded.first
    with torch.inference_mode():
        assert torch.equal(loaded(x), result.model(x))


def test_files_that_hold_no_csr_or_another_model_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    save_sparse(net(), tmp_path / "plain")
    with pytest.raises(ValueError, match="load_sparse_into"):
        load_csr(net(), tmp_path / "plain")
    always(monkeypatch)
    save_csr(to_csr(net(), torch.randn(5, 20), repeats=3).model, tmp_path / "net")
    with pytest.raises(ValueError, match="does not fit"):
        load_csr(net()[:-1], tmp_path / "net")


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("[]", "does not say which layers are CSR"),
        ("3", "does not say which layers are CSR"),
        ('{"0": 5}', "does not say which layers are CSR"),
        ('{"0": []}', "does not say which layers are CSR"),
        ('{"0": [[1]]}', "does not say which layers are CSR"),
        ('{"0": [[1, "yes"]]}', "does not say which layers are CSR"),
        ('{"0": [[-1, true]]}', "does not say which layers are CSR"),
        ('{"0": [[true, true]]}', "does not say which layers are CSR"),
        ('{"nowhere": [[1, true]]}', "does not fit the model"),
        ('{"1": [[1, true]]}', "does not fit the model"),
        ("[" * 10_000, "damaged JSON"),
        ("{", "damaged JSON"),
    ],
)
def test_a_file_that_says_wrongly_which_layers_are_csr_is_one_error(tmp_path, plan, words):
    pytest.importorskip("safetensors")
    save_sparse(net(), tmp_path / "net", metadata={csr_file._KEY: plan})
    with pytest.raises(ValueError, match=words):
        load_csr(net(), tmp_path / "net")


def test_ratios_of_work_are_the_ratio_of_its_amount():
    def work(number):
        return lambda: sum(range(number))

    ratios = interleaved_ratios(work(80_000), work(20_000), 9)
    assert len(ratios) == 9
    assert 2.5 < sorted(ratios)[4] < 6


def test_a_large_and_very_sparse_layer_is_measured_to_be_faster():
    model = sparse_linear(2048, 2048, density=0.005)
    result = to_csr(model, torch.randn(16, 2048), repeats=5)
    assert result.layers[0].form == "csr"
    assert result.speedup > 1
