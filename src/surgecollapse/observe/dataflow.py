"""Follows values through one forward pass: which layers produce the output, which select, which parameters multiply.

Every operation of the pass is seen below autograd, autocast and ``torch.func``, whether a module, a function or a
scripted graph calls it. States are kept by storage, so that views, indexing and writes in place need no rules of their
own. Nothing is kept alive: storages are held by weak reference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from surgecollapse.protocols import Dataflow
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import canonical_name, tensors_in
from surgecollapse.torch_utils.sharded_modules import gathers
from surgecollapse.torch_utils.shards import is_sharded, local

_SIDE_OUTPUTS = frozenset(
    (
        "past_key_values",
        "past_key_value",
        "cache",
        "cache_params",
        "mems",
        "hidden_states",
        "attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "text_model_output",
        "vision_model_output",
    )
)
"""Entries of a mapping that are caches or inner states, by the names that the ``transformers`` package gives them."""
# fmt: off
_PRODUCTS = frozenset((
    "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "matmul", "linear", "einsum", "addr",
    "_addmm_activation", "_scaled_mm", "_grouped_mm", "_scaled_grouped_mm", "_int_mm", "_trilinear", "bilinear",
    "_sparse_addmm", "_sparse_mm", "mkldnn_linear", "_mkldnn_transpose", "tensordot",
))
_COPIES = frozenset((
    "_to_copy", "clone", "copy_", "contiguous", "lift_fresh", "lift_fresh_copy", "alias", "detach", "to", "_conj",
))
_PICKING = frozenset(("index", "index_select", "gather", "cat", "stack", "constant_pad_nd", "narrow_copy", "repeat"))
_SELECTIONS = frozenset(("topk", "kthvalue", "argmax"))
_SHARES = frozenset(("_softmax", "softmax", "_safe_softmax"))
_FEATURES = frozenset((
    "relu", "relu6", "gelu", "silu", "mish", "leaky_relu", "elu", "rrelu_with_noise", "hardswish", "threshold",
    "native_layer_norm", "native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "miopen_batch_norm",
    "native_group_norm", "_fused_rms_norm", "native_dropout", "max_pool2d_with_indices",
))
# fmt: on


class _State:
    """Where the present value of a storage comes from.

    ``parents`` are the states of activations that it was computed from; a value of parameters and constants alone has
    ``activation=False``. ``sources`` are the parameters behind such a value, ``direct`` those of which it is a plain
    copy or a part (also one that activations chose, of a batch of experts). A product with parameters is a layer, with
    its ``weights``. ``feature``: made by an operation that stands inside of nets, and not behind an output layer.
    ``root``: one over a root, as a norm of elementary operations multiplies with.
    """

    __slots__ = ("activation", "direct", "feature", "mixing", "parents", "root", "sources", "stops", "weights")

    def __init__(
        self,
        *,
        activation: bool = False,
        parents: tuple[_State, ...] = (),
        sources: frozenset[str] = frozenset(),
        direct: frozenset[str] = frozenset(),
        weights: frozenset[str] = frozenset(),
        stops: bool = False,
        feature: bool = False,
        mixing: bool = False,
        root: bool = False,
    ) -> None:
        self.root = root
        self.activation, self.parents, self.sources, self.direct = activation, parents, sources, direct
        self.weights, self.stops, self.feature, self.mixing = weights, stops, feature, mixing


def trace_dataflow(model: nn.Module, forward: Callable[[], Any]) -> Dataflow:
    r"""Run one forward pass and follow its output back to the layers that produce it.

    A *layer* is a product of activations with parameters. From every tensor of the output the values are followed back
    to the first layers, through anything that is not such a product. Examples are softmax, tanh, division, casts, sums,
    concatenations, indexing and norms. Of those, a layer is inside the net where another of them takes its output in.
    Examples are the earlier blocks of a residual stream, and a trunk whose features are returned beside the logits. A
    layer whose output is returned too is not inside, as an action that a critic takes in. That holds where no
    activation function or norm lies in between. Sigmoid, tanh and softmax are not activation functions here, as they
    stand behind output layers. Recurrent layers end the search; they are not output layers themselves.

    Args:
        model: the unwrapped model.
        forward: passes a batch through it, eagerly and without gradient.

    Returns:
        The names of parameters, each group in the model's order.

    >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(-1))
    >>> x = torch.ones(5, 2)
    >>> with torch.no_grad():
    ...     trace_dataflow(net, lambda: net(x))
    Dataflow(outputs=('2.weight',), selectors=(), weights=('0.weight', '2.weight'), transposed=())
    """
    tracer = _Tracer(model)
    hooks = tracer.see_gathered(model)
    try:
        with tracer:
            result = forward()
    finally:
        hooks.remove()
    order = {canonical_name(name): i for i, (name, _) in enumerate(model.named_parameters())}
    never = _recurrent(model)
    outputs = tracer.output_weights(_main_outputs(result))

    def sorted_names(names: Collection[str]) -> tuple[str, ...]:
        return tuple(sorted(names, key=order.__getitem__))

    return Dataflow(
        outputs=sorted_names(outputs - never),
        selectors=sorted_names(tracer.selectors - outputs - never),
        weights=sorted_names(tracer.weights),
        transposed=sorted_names(tracer.transposed),
    )


def _main_outputs(result: Any) -> Iterator[Tensor]:
    """The tensors of the output, without caches and inner states."""
    if isinstance(result, Mapping):
        result = [value for key, value in result.items() if key not in _SIDE_OUTPUTS]
    if isinstance(result, list | tuple):
        result = [value for value in result if not _is_cache(value)]
    return tensors_in(result)


def _is_cache(value: Any) -> bool:
    """Whether a part of the output is an object that keeps states for the next pass, as its class is named."""
    return not isinstance(value, Tensor) and any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _recurrent(model: nn.Module) -> set[str]:
    return {
        canonical_name(f"{path}.{key}" if path else key)
        for path, module in model.named_modules()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase)
        for key, _ in module.named_parameters()
    }


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """Keeps the state of every storage that the pass writes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self._states: dict[int, tuple[StorageWeakRef, _State]] = {}
        self._spans: dict[int, list[tuple[int, int, str]]] = {}
        self._held: list[Tensor] = []  # tensors without a storage are known by their id
        self._by_id: dict[int, _State] = {}
        self.selectors: set[str] = set()
        self.weights: set[str] = set()
        self.transposed: set[str] = set()
        self._strides = {canonical_name(name): local(p).stride()[-2:] for name, p in model.named_parameters()}
        self._sides = {canonical_name(name): tuple(p.shape[-2:]) for name, p in model.named_parameters()}
        self.see(model.named_parameters())
        for buffer in model.buffers():
            self._put(buffer, _State())

    def see(self, params: Iterable[tuple[str, Tensor]]) -> None:
        """Note where parameters lie."""
        for name, p in params:
            key = self._key(p)
            if key is not None and local(p).numel():
                self._spans.setdefault(key, []).append((*_span(local(p)), canonical_name(name)))
                self._states.pop(key, None)  # what gathered it was seen, too

    def see_gathered(self, model: nn.Module) -> Hooks:
        """Note where the whole weights lie that ``fully_shard`` gathers for each module's pass."""
        hooks = Hooks()
        for path, module in model.named_modules():
            if gathers(module):
                prefix = f"{path}." if path else ""

                def on_pass(module: nn.Module, _args: Any, _kwargs: Any, prefix: str = prefix) -> None:
                    own = ((prefix + name, p) for name, p in module.named_parameters())
                    self.see((name, p) for name, p in own if not is_sharded(p))

                hooks.before(module, on_pass)
        return hooks

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what its result comes from."""
        del types
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        taken = list(tensors_in([*args, kwargs]))
        before = [self._state(tensor) for tensor in taken]  # before the operation writes over one of them
        out = func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if name in _SHARES and before and before[0].activation:
            self._see_shares(before[0], taken[0].shape[args[1]])
        state = self._result(name, taken, before)
        for tensor in written:
            self._put(tensor, state)
        for tensor in tensors_in(out):
            if not any(tensor is other for other in written) and not self._is_view(tensor, taken):
                self._put(tensor, state)
        return out

    def _result(self, name: str, taken: list[Tensor], before: list[_State]) -> _State:
        if name.endswith("_like") or name.startswith("new_"):
            return _State()  # of the other tensor it takes the shape alone
        parents = tuple(dict.fromkeys(state for state in before if state.activation))
        if not parents:
            sources = frozenset[str]().union(*(state.sources for state in before))
            whole = name in _COPIES or name in _PICKING or sum(bool(state.sources) for state in before) == 1
            kept = whole and (name in _COPIES or name in _PICKING or name in ("mul", "mul_", "div"))
            direct = frozenset[str]().union(*(state.direct for state in before)) if kept else frozenset[str]()
            return _State(sources=sources, direct=direct)
        if "embedding" in name and not before[0].activation:
            return _State(activation=True, parents=parents, stops=True)
        if name in _PICKING and before[0].direct and not before[0].activation and taken[0].ndim > 2:
            return _State(activation=True, parents=parents, direct=before[0].direct)  # experts, chosen by activations
        if name in _SELECTIONS:
            self.selectors |= self._behind(parents[:1], mixing=False)
        if not _is_product(name):
            plain = len(parents) == 1 and (name in _COPIES or name in ("add", "add_"))
            direct = parents[0].direct if plain else frozenset[str]()
            norm = name in ("mul", "mul_") and any(state.root for state in parents)
            feature = norm or name.rstrip("_") in _FEATURES
            root = name in ("rsqrt", "rsqrt_")
            return _State(activation=True, parents=parents, direct=direct, feature=feature, root=root)
        operands = [
            (i, tensor, state)
            for i, (tensor, state) in enumerate(zip(taken, before, strict=True))
            if (state.sources or state.direct) and tensor.ndim >= 2 and not _is_bias(name, i)
        ]
        for position, tensor, state in operands:
            self.weights |= state.direct
            if _is_matrix_product(name):
                second = position == (1 if name in ("mm", "bmm") else 2)
                self.transposed |= {n for n in state.direct if second == (tensor.stride()[-2:] == self._strides[n])}
        weights = frozenset[str]().union(*(state.sources or state.direct for _, _, state in operands))
        return _State(
            activation=True,
            parents=parents,
            weights=weights,
            stops=bool(weights),
            mixing=not weights and len(parents) > 1,
        )

    def _see_shares(self, scores: _State, count: int) -> None:
        """Note a router: a layer whose few outputs, as shares that add up to one, weigh parts of the net.

        Scores of attention are products of activations, and no layer's outputs.
        """
        for layer in self._layers([scores], mixing=False, features=False):
            for name in layer.weights:
                sides = self._sides[name]
                if count in sides and max(sides) > count:
                    self.selectors.add(name)

    def output_weights(self, outputs: Iterator[Tensor]) -> set[str]:
        """Weights of the layers that produce these tensors."""
        states = [self._state(tensor) for tensor in outputs]
        found = self._layers(states)
        inside = self._layers([parent for state in found for parent in state.parents], stop=False)
        inside -= set().union(*map(self._heads_of, states))
        return {name for state in found - inside for name in state.weights}

    def _heads_of(self, output: _State) -> set[_State]:
        """Layers that produce one tensor of the output, with nothing between that makes features of their values."""
        near = self._layers([output], features=False, mixing=False)
        return near - self._layers([parent for state in near for parent in state.parents], stop=False)

    def _behind(self, states: Sequence[_State], *, mixing: bool = True) -> set[str]:
        return {name for state in self._layers(states, mixing=mixing) for name in state.weights}

    def _layers(
        self, states: Sequence[_State], *, stop: bool = True, mixing: bool = True, features: bool = True
    ) -> set[_State]:
        """Walk back to layers: to the first ones, or through them to all.

        Args:
            states: where to begin.
            stop: whether a layer ends its path.
            mixing: whether to go through products of activations with activations.
            features: whether to go through activation functions and norms.
        """
        seen, layers, path = set[_State](), set[_State](), list(states)
        while path:
            state = path.pop()
            if state in seen:
                continue
            seen.add(state)
            if state.weights:
                layers.add(state)
            if not (stop and state.stops) and (mixing or not state.mixing) and (features or not state.feature):
                path += state.parents
        return layers

    def _state(self, tensor: Tensor) -> _State:
        key = self._key(tensor)
        if key is None:
            return self._by_id.get(id(tensor), _State(activation=True))
        spans = self._spans.get(key)
        if spans and key not in self._states and local(tensor).numel():
            low, high = _span(local(tensor))
            names = frozenset(name for first, last, name in spans if first < high and low < last)
            return _State(sources=names, direct=names)
        # What the pass did not compute is an input: a batch, or a value kept between passes.
        entry = self._states.get(key)
        if entry is None:
            state = _State(activation=True)
            self._put(tensor, state)
            return state
        return entry[1]

    def _put(self, tensor: Tensor, state: _State) -> None:
        key = self._key(tensor)
        if key is None:
            self._held.append(tensor)
            self._by_id[id(tensor)] = state
        else:
            # The weak reference keeps the address from being used again, not the memory.
            weak = StorageWeakRef(local(tensor).untyped_storage())  # type: ignore[no-untyped-call, unused-ignore]
            self._states[key] = (weak, state)

    def _is_view(self, tensor: Tensor, taken: list[Tensor]) -> bool:
        key = self._key(tensor)
        return key is not None and any(self._key(other) == key for other in taken)

    @staticmethod
    def _key(tensor: Tensor) -> int | None:
        if tensor.layout is not torch.strided or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return None
        return int(local(tensor).untyped_storage()._cdata)


def _span(tensor: Tensor) -> tuple[int, int]:
    """First byte of a tensor in its storage, and the one after its last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first, size = int(tensor.storage_offset()), tensor.element_size()
    return first * size, (first + int(reach) + 1) * size


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes."""
    if not func._schema.is_mutable:
        return []
    found: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def _is_product(name: str) -> bool:
    return name in _PRODUCTS or "conv" in name or any(word in name for word in ("lstm", "gru", "rnn"))


def _is_matrix_product(name: str) -> bool:
    return name in ("mm", "bmm", "addmm", "baddbmm", "_addmm_activation")


def _is_bias(name: str, position: int) -> bool:
    """Whether an operand is added to the product: the first of ``addmm`` and its like, the third of a convolution."""
    if name.startswith(("add", "badd", "_addmm", "_sparse_addmm")):
        return position == 0
    return position == 2 and ("conv" in name or "linear" in name)
