"""What is known of modules: names, kinds, nested tensors, hooks that do not follow copies, undisturbed passes."""

from __future__ import annotations

import copy
import pickle
from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn

from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import (
    canonical_name,
    is_activation,
    is_embedding,
    is_norm,
    map_tensors,
    tensors_in,
    undisturbed,
    unwrap_model,
)

Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.filterwarnings("ignore")
def test_wrappers_of_any_depth_are_looked_through():
    inner = nn.Linear(2, 2)
    compiled = torch.compile(inner, backend="eager")
    assert unwrap_model(compiled) is inner
    assert unwrap_model(nn.DataParallel(inner)) is inner
    assert unwrap_model(nn.DataParallel(compiled)) is inner
    assert unwrap_model(torch.compile(nn.DataParallel(inner), backend="eager")) is inner
    assert unwrap_model(inner) is inner


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_orig_mod.0.weight", "0.weight"),
        ("a._orig_mod.b._checkpoint_wrapped_module.weight", "a.b.weight"),
        ("_fsdp_wrapped_module.layer.bias", "layer.bias"),
        ("module.weight", "module.weight"),  # a submodule may be called so: only the outermost wrapper is stripped
        ("my_orig_mod.weight", "my_orig_mod.weight"),
    ],
)
def test_only_whole_wrapper_segments_are_stripped(name, expected):
    assert canonical_name(name) == expected


def test_kinds_are_told_apart():
    norms = [nn.BatchNorm2d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2), nn.InstanceNorm1d(2)]
    activations = [
        nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Tanh(), nn.Sigmoid(), nn.ELU(), nn.CELU(), nn.SELU(),
        nn.LeakyReLU(), nn.PReLU(), nn.Hardswish(), nn.Softplus(), nn.ReLU6(), nn.LogSigmoid(),
    ]  # fmt: skip
    others = [
        nn.Linear(2, 2),
        nn.Softmax(1),
        nn.LogSoftmax(1),
        nn.Dropout(),
        nn.Identity(),
        nn.MultiheadAttention(2, 1),
    ]
    assert all(is_norm(m) and not is_activation(m) and not is_embedding(m) for m in norms)
    assert all(is_activation(m) and not is_norm(m) for m in activations)
    assert not any(is_activation(m) or is_norm(m) or is_embedding(m) for m in others)
    assert is_embedding(nn.Embedding(2, 2))
    assert is_embedding(nn.EmbeddingBag(2, 2))


def test_a_container_named_after_an_activation_is_none():
    class ReLUBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

    assert not is_activation(ReLUBlock())


def test_tensors_are_found_in_every_nesting_in_order():
    a, b, c, d = (torch.tensor(float(i)) for i in range(4))
    value = {"x": [a, (b, "text", None)], "y": UserDict({"z": c}), "p": Pair(left=d, right=1)}
    assert [t.item() for t in tensors_in(value)] == [0.0, 1.0, 2.0, 3.0]


def test_torch_return_types_are_tuples_although_they_have_values():
    """``max`` and ``topk`` return objects whose ``values`` is a tensor, not a method."""
    found = list(tensors_in(torch.tensor([[1.0, 3.0, 2.0]]).topk(2)))
    assert [t.tolist() for t in found] == [[[3.0, 2.0]], [[1, 2]]]


def test_mapping_tensors_keeps_the_nesting():
    a, b = torch.ones(2), torch.zeros(1)
    value = ([a], {"k": (b, 3)}, Pair(left=a, right="r"))
    doubled = map_tensors(value, lambda t: t + 1)
    assert type(doubled) is tuple
    assert doubled[0][0].tolist() == [2.0, 2.0]
    assert doubled[1]["k"][0].tolist() == [1.0]
    assert doubled[1]["k"][1] == 3
    assert isinstance(doubled[2], Pair)
    assert doubled[2].right == "r"
    assert a.tolist() == [1.0, 1.0]


def test_hooks_do_not_follow_copies_and_pickles():
    calls = []

    class Unpicklable:
        def __reduce__(self):
            raise TypeError("dragged along")

    heavy = Unpicklable()
    model, hooks = nn.Linear(2, 2), Hooks()
    hooks.after(model, lambda *_: calls.append(heavy))
    hooks.before(model, lambda *_: calls.append(heavy))
    assert len(hooks) == 2
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(torch.ones(1, 2))
    assert calls == []
    assert len(copy.deepcopy(hooks)) == 0
    model(torch.ones(1, 2))
    assert len(calls) == 2
    hooks.remove()
    model(torch.ones(1, 2))
    assert len(calls) == 2


class Noisy(nn.Module):
    """Moves everything that a forward pass can move."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x):
        self.seen.add_(1)
        self.replaced = self.replaced + 1
        torch.rand(1)
        return self.drop(self.norm(self.linear(x)))


def test_an_undisturbed_pass_leaves_no_trace():
    model = Noisy().train()
    model.norm.eval()  # as when a norm is frozen: the flag of every module must come back
    buffers = dict(model.named_buffers())
    before = {name: b.clone() for name, b in buffers.items()}
    random, fastpath = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        out = model(torch.ones(4, 3))
        assert not out.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled() is fastpath
    assert {name: m.training for name, m in model.named_modules()} == {
        "": True, "linear": True, "norm": False, "drop": True,
    }  # fmt: skip
    assert torch.is_grad_enabled()
    for name, b in model.named_buffers():
        assert b is buffers[name], name
        assert torch.equal(b, before[name]), name


def test_a_failing_pass_leaves_no_trace_either():
    model = Noisy().train()
    random = torch.get_rng_state()

    def fail():
        with undisturbed(model):
            model(torch.ones(4, 3))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert model.drop.training
    assert model.seen.item() == model.replaced.item() == 0.0
    assert torch.equal(torch.get_rng_state(), random)
