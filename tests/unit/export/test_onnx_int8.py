"""8-bit ONNX files: near the model, a quarter of its size, and refused where they cannot be made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.export import export_onnx, quantize_onnx
from surgecollapse.export.onnx import onnxruntime


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 10)
    ).eval()
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("int8") / "net.onnx"
    export_onnx(model, images, path)
    return model, images, path


def test_outputs_are_within_the_steps_of_eight_bits(exported, tmp_path):
    model, images, path = exported
    found = quantize_onnx(path, tmp_path / "int8.onnx", [images[:32], images[32:]])
    session = onnxruntime().InferenceSession(found.path, providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    with torch.no_grad():
        expected = model(images)
    # Input, convolution, activation, head and their weights are each rounded to half of a 255th of their range.
    relative = float((given - expected).norm() / expected.norm())
    assert 0 < relative < 6 * 0.5 / 255 * 6
    assert found.integer_operators == 2
    assert found.bytes_before == path.stat().st_size
    assert found.bytes == found.path.stat().st_size < 0.4 * found.bytes_before


def test_what_it_cannot_use_is_refused(exported, tmp_path):
    _, images, path = exported
    with pytest.raises(ValueError, match="at least one batch"):
        quantize_onnx(path, tmp_path / "x.onnx", [])

    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    export_onnx(Two(), (torch.ones(2, 3), torch.ones(2, 3)), tmp_path / "two.onnx")
    with pytest.raises(ValueError, match="one input, got 2"):
        quantize_onnx(tmp_path / "two.onnx", tmp_path / "x.onnx", [images])
    assert not (tmp_path / "x.onnx").exists()
