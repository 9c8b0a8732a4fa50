"""2:4: which layers qualify, and that PyTorch's packing keeps every value of those. No GPU is needed."""

import itertools

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT as CuSparseLt
from torch.sparse import SparseSemiStructuredTensorCUTLASS as Cutlass
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from surgecollapse.export.semi_structured import (
    DTYPES,
    MULTIPLES,
    is_two_four,
    missing_hardware,
    pack,
    to_semi_structured,
    two_four_layers,
)


def two_four(rows, columns):
    """A matrix with two values in every four, at random places."""
    places = torch.rand(rows, columns // 4, 4).argsort(-1) < 2
    return torch.randn(rows, columns) * places.view(rows, columns)


def test_the_pattern_is_at_most_two_of_four_in_all_sixteen_cases():
    for bits in itertools.product((0.0, 1.0), repeat=4):
        assert is_two_four(torch.tensor([bits])) == (sum(bits) <= 2)


def test_the_pattern_counts_fours_from_the_start_of_a_row():
    assert not is_two_four(torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0]).roll(2))
    assert is_two_four(torch.tensor([0.0, 0, 1, 1, 1, 1, 0, 0]))
    assert not is_two_four(torch.zeros(2, 6))
    assert is_two_four(two_four(32, 64).t().contiguous().t())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_packing_of_a_layer_that_qualifies_loses_nothing(dtype):
    net = nn.Sequential(nn.Linear(128, 64))
    net[0].weight = nn.Parameter(two_four(64, 128))
    dense = net[0].weight.detach().to(dtype)
    packed = {}

    def packer(weight):
        packed["parts"] = sparse_semi_structured_from_dense_cutlass(weight)
        return sparse_semi_structured_to_dense_cutlass(*packed["parts"])

    layers = two_four_layers(net, dtype=dtype)
    assert [layer.qualifies for layer in layers] == [True]
    pack(net.to(dtype), layers, packer)
    assert torch.equal(net[0].weight, dense)
    assert not net[0].weight.requires_grad
    values, places = packed["parts"]
    assert values.numel() == dense.numel() // 2
    assert places.numel() * places.itemsize * 8 == 2 * values.numel()


def test_float32_is_refused_since_its_packing_drops_values():
    weight = torch.tensor([1.0, 2.0, 0.0, 0.0]).repeat(32, 16)
    assert is_two_four(weight)
    parts = sparse_semi_structured_from_dense_cutlass(weight)
    assert not torch.equal(sparse_semi_structured_to_dense_cutlass(*parts), weight)
    with pytest.raises(ValueError, match=r"compute exactly in torch.float16 or torch.bfloat16, got torch.float32"):
        two_four_layers(nn.Linear(64, 32), dtype=torch.float32)


def test_our_shapes_are_good_for_both_of_the_kernels():
    for kernel, dtype in itertools.product((CuSparseLt, Cutlass), DTYPES):
        limits = kernel._DTYPE_SHAPE_CONSTRAINTS[dtype]
        assert MULTIPLES[0] % limits.sparse_min_rows == 0
        assert MULTIPLES[1] % limits.sparse_min_cols == 0


def test_every_reason_not_to_qualify():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.dense, self.narrow = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(64, 10)
            self.huge, self.tied, self.twin = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(64, 32)
            self.attention = nn.MultiheadAttention(64, 4)
            self.layer = nn.TransformerEncoderLayer(64, 4, 64)
            self.tied.weight = self.twin.weight

    net = Net()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear) and module is not net.dense:
                module.weight.copy_(two_four(*module.weight.shape))
        net.huge.weight[0, :4] = torch.tensor([1e6, 0, 0, 0])
    reasons = {layer.name: layer.reason for layer in two_four_layers(net)}
    read = "its weight is read by more than its own forward"
    assert reasons == {
        "good": "",
        "dense": "more than two of four consecutive weights of a row are not zero",
        "narrow": "rows and columns must be multiples of (32, 64)",
        "huge": "it has values that torch.float16 cannot hold",
        "tied": "its weight is shared with another module",
        "twin": "its weight is shared with another module",
        "attention.out_proj": read,
        "layer.self_attn.out_proj": read,
        "layer.linear1": read,
        "layer.linear2": read,
    }


def test_without_a_gpu_the_error_says_what_works_here():
    with pytest.raises(RuntimeError, match=r"need an NVIDIA GPU, got the device cpu; two_four_layers\(model\) tells"):
        to_semi_structured(nn.Linear(64, 32), torch.ones(1, 64), device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_cuda_device_that_is_not_there_is_named():
    assert "finds none" in missing_hardware(torch.device("cuda"))


@pytest.mark.skipif(bool(missing_hardware(torch.device("cuda"))), reason="needs an NVIDIA GPU of capability 8.0")
def test_on_a_gpu_the_outputs_stay_the_same():
    net = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    net[0].weight = nn.Parameter(two_four(64, 128))
    result = to_semi_structured(net, torch.randn(128, 128))
    assert [layer.qualifies for layer in result.layers] == [True, False]
    assert result.max_difference < 1e-2
