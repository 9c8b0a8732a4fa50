"""Propagation of units through a traced model, node by node; what has no rule is left as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from surgecollapse.export.compaction.channel_groups import ChannelGroups, Units
from surgecollapse.export.compaction.model_graph import has_hooks
from surgecollapse.export.compaction.node_context import NodeContext, module_name, shape_of
from surgecollapse.export.compaction.rules import apply, gives_new_memory, module_rule
from surgecollapse.export.compaction.shape_queries import reads_metadata, survives_cut
from surgecollapse.torch_utils.modules import is_embedding


@dataclass(frozen=True)
class Propagation:
    """What is known of a model's units."""

    groups: ChannelGroups
    left: dict[str, str]
    """Modules with weights that were not followed: name → why."""
    attention: dict[str, nn.MultiheadAttention]
    """Attention of which only the output is read, so that heads can be taken out."""


@torch.no_grad()
def propagate(model: nn.Module, graph: fx.Graph) -> Propagation:
    """Follow the units of a model through its graph.

    Args:
        model: the model that was traced.
        graph: of :func:`surgecollapse.export.compaction.model_graph.trace`, with shapes.

    Returns:
        The units, the layers that read and compute them, and the modules that were left out.
    """
    groups = ChannelGroups()
    left = _obstacles(model, graph)
    attention: dict[str, nn.MultiheadAttention] = {}
    values: dict[fx.Node, Units | None] = {}
    overwritten = _overwritten(model, graph)
    for node in graph.nodes:
        module = _module(model, node)
        name = module_name(node) if module is not None else ""
        context = NodeContext(groups, node, module, values)
        known = node.op.startswith("call") and name not in left
        units = apply(context) if known else None
        if units is not None and (
            len(shape := node.meta.get("shape", ())) <= units.axis or shape[units.axis] != len(units.ids)
        ):
            units = None
        if units is None or node in overwritten:
            if type(module) is nn.MultiheadAttention and known and _only_output(node):
                attention[name] = module
            _pin(groups, node, units, values, module, name)
            units = None
        values[node] = units
    for name, module in model.named_modules():
        inside = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)
        if inside or is_embedding(module):
            left.pop(name, None)
        elif _has_weights(module) and not (module_rule(module) or name in attention):
            left.setdefault(name, f"{type(module).__name__} is not taken apart")
    return Propagation(groups, left, attention)


def _pin(
    groups: ChannelGroups,
    node: fx.Node,
    own: Units | None,
    values: dict[fx.Node, Units | None],
    module: nn.Module | None,
    name: str,
) -> None:
    """Whatever a node without a rule reads must stay."""
    kind = "an output of the model" if node.op == "output" else f"read by {_title(node, module, name)}"
    for source in node.all_input_nodes:
        units = values[source]
        if units is not None and not survives_cut(node, units):
            groups.pin(units, kind)
    groups.pin(own, "overwritten in place, and read again")


def _title(node: fx.Node, module: nn.Module | None, name: str) -> str:
    if module is not None:
        return f"{type(module).__name__} {name}".strip()
    return str(getattr(node.target, "__name__", node.target))


def _module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(module_name(node)) if node.op == "call_module" else None


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _obstacles(model: nn.Module, graph: fx.Graph) -> dict[str, str]:
    """Modules that must be left as they are whatever they compute: name → why."""
    calls = Counter(module_name(node) for node in graph.nodes if node.op == "call_module")
    read = [node for node in graph.nodes if node.op == "get_attr"]
    direct = {module_name(node) for node in read if not all(reads_metadata(user) for user in node.users)}
    owners: dict[int, set[str]] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    left = {}
    for name, module in modules.items():
        prefix = f"{name}." if name else ""
        own = [key for key, _ in module.named_parameters() if f"{prefix}{key}" in direct]
        if has_hooks(module):
            left[name] = "it has hooks: remove them first"
        elif own:
            left[name] = f"its {own[0]} is read outside of it"
        elif any(len(owners[id(parameter)]) > 1 for parameter in module.parameters(recurse=False)):
            left[name] = "it shares a parameter with another module"
        elif calls[name] > 1 and any(True for _ in module.parameters()):
            left[name] = f"it is called {calls[name]} times"
        elif name not in calls and _has_weights(module):
            left[name] = "it is not called on its own"
    return left


def _only_output(node: fx.Node) -> bool:
    """Whether the attention weights are unused, and no head has a mask of its own."""
    if any(len(shape_of(source)) > 2 for source in node.all_input_nodes if source is node.kwargs.get("attn_mask")):
        return False
    if node.kwargs.get("need_weights", True) is False or (len(node.args) > 4 and node.args[4] is False):
        return True
    return all(user.args[1] == 0 for user in node.users if len(user.args) > 1) and all(
        len(user.args) > 1 for user in node.users
    )


def _overwritten(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose memory an in-place operation changes while another operation reads it."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        queue = list(node.all_input_nodes[:1]) if _in_place(model, node) else []
        while queue:
            source = queue.pop()
            if source in found:
                continue
            if len(source.users) > 1:
                found.add(source)
            if _in_place(model, source) or not gives_new_memory(source, _module(model, source)):
                queue.extend(source.all_input_nodes[:1])
    return found


def _in_place(model: nn.Module, node: fx.Node) -> bool:
    module = _module(model, node)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = str(getattr(node.target, "__name__", node.target))
    written = name.endswith("_") and not name.endswith("__")
    augmented = getattr(node.target, "__module__", "") == "_operator" and name in ("iadd", "isub", "imul", "itruediv")
    return written or augmented or bool(node.kwargs.get("inplace")) or any(value is True for value in node.args)
