"""ONNX files: onnxruntime computes what torch does, or there is no file."""

import importlib
import logging
import sys
import warnings

import pytest
import torch
from torch import nn

from surgecollapse.export.compact import compact_model
from surgecollapse.export.onnx import export_onnx
from surgecollapse.lab.nets.transformer import OneLayerTransformer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0])


def by_hand(layer, operator="Gemm"):
    """The content of a file of one linear layer, made without the exporter, and its opset."""
    weight, bias = (onnx.numpy_helper.from_array(p.detach().numpy(), n) for n, p in layer.named_parameters())
    kind = onnx.helper.np_dtype_to_tensor_dtype(layer.weight.detach().numpy().dtype)
    x, y = (onnx.helper.make_tensor_value_info(name, kind, ["n", None]) for name in "xy")
    nodes = [onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["z"], transB=1)]
    nodes.append(onnx.helper.make_node("Identity" if operator == "Gemm" else operator, ["z"], ["y"]))
    opset = onnx.helper.make_opsetid("", 20)
    graph = onnx.helper.make_graph(nodes, "linear", [x], [y], [weight, bias])
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString(), 20


def test_a_compacted_transformer_at_batch_sizes_never_seen_and_the_exporter_is_silent(tmp_path, capfd):
    model = OneLayerTransformer(7, 4, 5, width=16, hidden=64, dropout=0.1)
    with torch.no_grad():
        model.attention.out_proj.weight[:, 4:8] = 0
        model.mlp[0].weight[:50] = 0
    smaller = compact_model(model, torch.randint(7, (6, 4)))
    assert smaller.units_cut == 51
    level = logging.getLogger("torch.onnx").level
    net = smaller.model.train()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = export_onnx(net, torch.randint(7, (6, 4)), tmp_path / "net.onnx")
    assert not heard
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("torch.onnx").level == level
    assert result.bytes == result.path.stat().st_size
    assert result.batches == (6, 1)
    assert result.max_difference < 1e-5
    assert net.training
    x = torch.randint(7, (9, 4))
    with torch.no_grad():
        assert (run(result.path, x) - model.eval()(x)).abs().max() < 1e-5


def test_a_fixed_batch_and_inputs_by_name(tmp_path):
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b.sum()

    result = export_onnx(Sum(), {"a": torch.ones(1, 2), "b": torch.ones(3)}, tmp_path / "s.onnx", dynamic_batch=False)
    assert result.inputs == ("a", "b")
    assert result.batches == ()
    assert run(result.path, torch.ones(1, 2), torch.ones(3)).tolist() == [[4.0, 4.0]]
    with pytest.raises(ValueError, match=r"two or more samples, got \[1, 3\]"):
        export_onnx(Sum(), {"a": torch.ones(1, 2), "b": torch.ones(3)}, tmp_path / "s.onnx")
    with pytest.raises(TypeError, match="example_inputs must be"):
        export_onnx(Sum(), "ab", tmp_path / "s.onnx")


def test_a_difference_beyond_the_tolerance_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    layer = nn.Linear(300, 40)
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    with torch.no_grad():
        layer.bias[0] += 1e-3
        file = by_hand(layer)
        layer.bias[0] -= 1e-3
    monkeypatch.setattr("surgecollapse.export.onnx._convert", lambda *_: file)
    x = torch.rand(50, 300)
    with pytest.raises(ValueError, match=r"differ from the model's by 0.001, more than 0.000\d+: not written"):
        export_onnx(layer, x, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert export_onnx(layer, x, path, tolerance=1e-2).max_difference == pytest.approx(1e-3, rel=0.01)
    assert path.read_bytes() == file[0]


def test_another_shape_and_a_missing_kernel_are_refused(tmp_path, monkeypatch):
    layer, kind = nn.Linear(2, 2), torch.float64
    monkeypatch.setattr("surgecollapse.export.onnx._convert", lambda *_: by_hand(layer))
    with pytest.raises(ValueError, match=r"shapes \[\(5, 2\)\], the model's \[\(5, 4\)\]"):
        export_onnx(nn.Linear(2, 4), torch.randn(5, 2), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"reads \['x'\], but the example inputs hold 2 tensors"):
        export_onnx(layer, (torch.randn(5, 2), torch.randn(5)), tmp_path / "net.onnx")
    monkeypatch.setattr("surgecollapse.export.onnx._convert", lambda *_: by_hand(layer.to(kind), "Softplus"))
    with pytest.raises(ValueError, match=r"onnxruntime refuses the file: .*NOT_IMPLEMENTED"):
        export_onnx(layer, torch.ones(2, 2, dtype=kind), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_one_line(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"^Branching cannot be written as ONNX: [^\n]+$"):
        export_onnx(Branching(), torch.randn(2, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}: pip install 'surgecollapse\[onnx\]'"):
        export_onnx(nn.Linear(2, 2), torch.ones(2, 2), tmp_path / "net.onnx")
    monkeypatch.undo()
    assert importlib.import_module(missing)
