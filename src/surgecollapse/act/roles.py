"""What every parameter is for, and whether it is pruned by default: the rule and its reasons, in one place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.modules import canonical_name, is_embedding, is_norm

Role = Literal[
    "linear",
    "convolution",
    "attention",
    "recurrent",
    "expert",
    "matrix",
    "output layer",
    "embedding",
    "norm",
    "vector",
    "bias",
    "router",
    "state space",
    "low-rank adapter",
    "computed weight",
    "bare parameter",
    "no entries",
    "not real",
]

REASONS: dict[Role, str] = {
    "linear": "weight of a linear layer",
    "convolution": "kernel of a convolution",
    "attention": "projection of an attention layer",
    "recurrent": "weight of a recurrent layer",
    "expert": "weights of a batch of experts",
    "matrix": "multiplies activations as a matrix",
    "output layer": "belongs to a layer that produces the model's output",
    "embedding": "table of an embedding, or tied to one",
    "norm": "scale or shift of a normalization layer",
    "vector": "has fewer than two dimensions",
    "bias": "is a bias",
    "router": "chooses between experts",
    "state space": "sets the dynamics of a state-space layer",
    "low-rank adapter": "factor of a low-rank adapter: the merged weight would stay dense",
    "computed weight": "the weight is computed from it in a way that zeros do not survive",
    "bare parameter": "is not the weight of a layer that multiplies (a position, query, temperature or scale)",
    "no entries": "has no entries",
    "not real": "is not a real floating-point tensor",
}
PRUNABLE: frozenset[Role] = frozenset(("linear", "convolution", "attention", "recurrent", "expert", "matrix"))
"""Roles that are pruned by default."""

_TABLE_WORDS = ("embed", "pos_", "_pos", "position", "cls_token", "mask_token", "class_token")
_OTHER_WORDS = frozenset((
    "pos", "token", "tokens", "query", "queries", "latent", "latents", "prompt", "prompts", "prototype", "prototypes",
    "codebook", "codebooks", "center", "centers", "centroid", "centroids", "anchor", "anchors", "memory", "slots",
    "temperature", "temperatures", "temp", "tau", "scale", "scales", "gamma", "beta", "gain", "alpha",
    "emb", "er", "rel", "relative", "table", "tables", "seed", "seeds", "inducing", "landmark", "landmarks",
))  # fmt: skip
_WEIGHT_WORDS = frozenset(("w", "weight", "weights", "proj", "kernel", "matrix", "linear"))
_ADAPTERS = re.compile(r"(^|\.)(lora|hada|lokr|vera|ia3|oft|boft|hra)_", re.IGNORECASE)
_ROUTERS = frozenset(("router", "gate", "gating", "wg", "gate_network"))
_ADAPTED = ("lora", "dora", "loha", "lokr")
_FACTORS = frozenset(("a", "b", "down", "up", "u", "v", "left", "right"))
_STATE_SPACE = re.compile(
    r"^(a_log|log_a(_real)?|a_real|a_imag|log_dt|inv_dt|dt_bias|dt|log_step|nu_log|theta_log|gamma_log|log_lambda|"
    r"lambda_(re|im|real|imag|log)|(re|im)_lambda|recurrent_param|time_(decay|first|faaaa|maa\w*|mix\w*))$",
    re.IGNORECASE,
)
_STATES = frozenset(("A", "B", "C"))
"""Bare parameters of a linear state space, where all three are."""


@dataclass(frozen=True, slots=True)
class ParameterRole:
    """One row of :class:`Explanation`."""

    name: str
    shape: tuple[int, ...]
    role: Role
    prunable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which parameters are pruned, and why: one row a parameter, in the model's order.

    >>> print(explain_parameters(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))))
    parameter  shape   role    prunable  reason
    0.weight   (3, 2)  linear  yes       weight of a linear layer
    0.bias     (3,)    bias    no        is a bias
    1.weight   (3,)    norm    no        scale or shift of a normalization layer
    1.bias     (3,)    norm    no        scale or shift of a normalization layer
    """

    rows: tuple[ParameterRole, ...]
    note: str = ""
    """What the reader has to know of the table; stands below it."""

    def __iter__(self) -> Iterator[ParameterRole]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> ParameterRole:
        """The row of a parameter, by canonical name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        head = ("parameter", "shape", "role", "prunable", "reason")
        cells = [(row.name, str(row.shape), row.role, "yes" if row.prunable else "no", row.reason) for row in self.rows]
        widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [head, *cells]
        ]
        return "\n".join([*lines, self.note] if self.note else lines)


def explain_parameters(model: nn.Module, dataflow: Dataflow | None = None) -> Explanation:
    """Say of every parameter what it is for, and whether it is pruned by default.

    Prunable are the weights of layers that multiply: linear layers, convolutions, attention, recurrent layers and
    experts. So are other parameters that were seen to multiply activations as a matrix. Linear layers may store inputs
    by outputs, as the ``Conv1D`` of ``transformers`` does. A parameter that plays several parts, as one that a head
    shares with an embedding, is prunable only if all of them are.

    Args:
        model: the unwrapped model.
        dataflow: what a forward pass showed; without it the output layers are not known.
    """
    dataflow = dataflow or Dataflow()
    uses: dict[int, list[_Use]] = {}
    parents = {canonical_name(path): module for path, module in model.named_modules(remove_duplicate=False)}
    for path, module in parents.items():
        if isinstance(module, ParametrizationList):  # what it holds belongs to the layer that is parametrized
            continue
        for key, p in module.named_parameters(remove_duplicate=False):
            if "." not in key or key.startswith("parametrizations."):
                uses.setdefault(id(p), []).append(_Use(path, module, key, p, parents.get(path.rpartition(".")[0])))
    rows = []
    for name, p in model.named_parameters():
        name = canonical_name(name)
        roles = [_role(use, name, dataflow) for use in uses[id(p)]]
        role = next((role for role in roles if role not in PRUNABLE), roles[0])
        role = "low-rank adapter" if "low-rank adapter" in roles else role
        reason = REASONS[role]
        rows.append(ParameterRole(name, tuple(p.shape), role, role in PRUNABLE, reason))
    return Explanation(tuple(rows))


def with_reason(row: ParameterRole, reason: str, *, prunable: bool = False) -> ParameterRole:
    """The row with another verdict."""
    return replace(row, prunable=prunable, reason=reason)


@dataclass(frozen=True, slots=True)
class _Use:
    """One place where a parameter stands."""

    path: str
    module: nn.Module
    key: str
    param: nn.Parameter
    parent: nn.Module | None

    @property
    def kind(self) -> str:
        """Class name of the module, in lower case."""
        return type(self.module).__name__.lower()

    @property
    def leaf(self) -> str:
        """The parameter's own name; of a parametrized one that of the weight that is computed from it.

        One in a list or a dictionary of parameters is known by the name of that.
        """
        if self.key.startswith("parametrizations."):
            return self.key.split(".")[1]
        gathered = isinstance(self.module, nn.ParameterList | nn.ParameterDict)
        return f"{self.path.rpartition('.')[2]}_{self.key}" if gathered else self.key


def _role(use: _Use, name: str, dataflow: Dataflow) -> Role:
    """The first rule that holds."""
    rules: tuple[tuple[Role, Callable[[_Use], bool]], ...] = (
        ("no entries", lambda use: use.param.numel() == 0),
        ("not real", lambda use: not use.param.is_floating_point()),
        ("norm", lambda use: is_norm(use.module)),
        ("embedding", _is_table),
        ("low-rank adapter", _is_adapter),
        ("computed weight", _is_computed_from),
        ("state space", _is_state_space),
        ("bias", lambda use: use.leaf.startswith("bias") or use.leaf.endswith("bias")),
        ("vector", lambda use: use.param.ndim < 2),
        ("output layer", lambda _: name in dataflow.outputs),
        ("router", lambda use: name in dataflow.selectors or _is_router(use)),
        *_LAYERS,
        ("matrix", lambda use: name in dataflow.weights and _is_weight_by_name(use.leaf)),
    )
    return next((role for role, holds in rules if holds(use)), "bare parameter")


_LAYERS: tuple[tuple[Role, Callable[[_Use], bool]], ...] = (
    ("attention", lambda use: "weight" in use.leaf and isinstance(use.module, nn.MultiheadAttention)),
    ("recurrent", lambda use: "weight" in use.leaf and isinstance(use.module, nn.RNNBase | nn.RNNCellBase)),
    ("convolution", lambda use: "weight" in use.leaf and isinstance(use.module, nn.modules.conv._ConvNd)),
    ("linear", lambda use: "weight" in use.leaf and isinstance(use.module, nn.Linear | nn.Bilinear)),
    ("expert", lambda use: "expert" in use.kind and use.param.ndim == 3),
    ("linear", lambda use: use.leaf == "weight" and (use.kind == "conv1d" or _has_word(use.kind, "linear", "dense"))),
    ("convolution", lambda use: use.leaf == "weight" and "conv" in use.kind),
)


def _has_word(text: str, *words: str) -> bool:
    return any(word in text for word in words)


def _is_table(use: _Use) -> bool:
    """Whether it stands in an embedding, or its own name says that it is a table of positions or tokens."""
    return is_embedding(use.module) or "embed" in use.kind or _has_word(use.leaf.lower(), *_TABLE_WORDS)


def _is_adapter(use: _Use) -> bool:
    """Whether it is a low-rank factor: by its name, of a layer whose class says so, or beside a frozen weight."""
    if _ADAPTERS.search(f"{use.path}.{use.key}"):
        return True
    if _has_word(use.kind, *_ADAPTED):
        return use.key.lower() in _FACTORS
    around = "" if use.parent is None else type(use.parent).__name__.lower()
    own = use.path.rpartition(".")[2].lower()
    return (_has_word(around, *_ADAPTED) and own in _FACTORS) or _adds_to_frozen(use, own)


def _adds_to_frozen(use: _Use, own: str) -> bool:
    """Whether it and another one are factors whose product has the shape of a frozen weight beside them.

    The factors are bare parameters, or layers without a bias that are named as factors are. A bottleneck with an
    activation function in between has biases, or stands in a module of its own.
    """
    if use.param.ndim != 2 or not use.param.requires_grad:
        return False
    place, others = use.module, [p for _, p in use.module.named_parameters(recurse=False)]
    if isinstance(use.module, nn.Linear) and use.key == "weight":
        if use.parent is None or use.module.bias is not None or own not in _FACTORS:
            return False
        place = use.parent
        layers = [m for key, m in place.named_children() if key.lower() in _FACTORS and isinstance(m, nn.Linear)]
        others = [m.weight for m in layers if m.bias is None]
    elif isinstance(use.parent, ParametrizationList):
        place = use.parent
    near = [*place.parameters(recurse=False), *(p for m in place.children() for p in m.parameters(recurse=False))]
    frozen = [p for p in near if p.ndim == 2 and not p.requires_grad]
    mine, theirs = tuple(use.param.shape), [tuple(p.shape) for p in others if p is not use.param and p.ndim == 2]
    return any(_are_factors(mine, shape, tuple(p.shape)) for p in frozen for shape in theirs)


def _are_factors(one: tuple[int, ...], other: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether two shapes, transposed or not, are those of factors of a lower rank.

    >>> _are_factors((4, 32), (16, 4), (16, 32)), _are_factors((4, 32), (32, 4), (16, 32))
    (True, False)
    """
    ranks = [rank for rank in one if rank in other and rank < min(whole)]
    left = [(sum(one) - rank, sum(other) - rank) for rank in ranks]
    return whole in left or whole[::-1] in left


def _is_computed_from(use: _Use) -> bool:
    """Whether a weight is computed from it in a way that zeros do not survive.

    ``weight_norm`` divides each unit's weights by their length, which is NaN for a unit without any; ``orthogonal``
    mixes all entries. Spectral normalization only scales, and is no obstacle.
    """
    for hook in use.module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and use.key in (f"{hook.name}_g", f"{hook.name}_v"):
            return True
    if not use.key.startswith("parametrizations."):
        return False
    steps: Sequence[nn.Module] = use.module.get_submodule(".".join(use.key.split(".")[:2])).children()  # type: ignore[assignment]
    return any(type(step).__name__ != "_SpectralNorm" for step in steps)


def _is_state_space(use: _Use) -> bool:
    """Whether it is one of a state-space layer's own, its step size, or its depthwise convolution over time."""
    own = {key for key, _ in use.module.named_parameters(recurse=False)}
    if _has_dynamics(use.module) or (own >= _STATES and use.key in _STATES):
        return True
    if use.parent is None:
        return False
    if isinstance(use.module, nn.Conv1d) and use.module.groups > 1:  # of the layer itself, or beside the recurrence
        return _has_dynamics(use.parent) or any(map(_has_dynamics, use.parent.children()))
    return use.path.rpartition(".")[2].startswith("dt_") and _has_dynamics(use.parent)


def _has_dynamics(module: nn.Module) -> bool:
    return any(_STATE_SPACE.match(key) for key, _ in module.named_parameters(recurse=False))


def _is_router(use: _Use) -> bool:
    """Whether it chooses between experts: by its class, or as the gate beside them."""
    if _has_word(use.kind, "router", "topkgate"):
        return True
    own = use.path.rpartition(".")[2].lower()
    beside = [] if use.parent is None else [key.lower() for key, _ in use.parent.named_children()]
    if not any("expert" in key for key in beside) and _has_word(type(use.parent).__name__.lower(), "router"):
        return True
    return own.endswith("expert_gate") or (own in _ROUTERS and any("expert" in key for key in beside))


def _is_weight_by_name(leaf: str) -> bool:
    words = set(re.split(r"[_\d.]+", leaf.lower()))
    return bool(words & _WEIGHT_WORDS) or not words & _OTHER_WORDS
