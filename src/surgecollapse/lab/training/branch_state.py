"""What a branch may have otherwise than the run that it leaves, and how the saved state takes it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.controller.carried import CARRIED
from surgecollapse.errors import ConfigError, unknown
from surgecollapse.lab.config import as_mapping, flat_values, layered
from surgecollapse.lab.config.keys import flat
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_optimizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from surgecollapse.lab.config import RunConfig

CHANGEABLE = (
    "lr", "weight_decay", "momentum", "beta2", "eps", "schedule", "warmup", "lr_hold_steps", "muon_lr", "muon_beta1",
    "clip", "dropout", "sparsity", "policy_options", "monitors", "monitor_budget",
    "steps", "epochs", "batch_size", "scale_partial_batches", "loss", "class_weights",
    "early_stopping", "stop_at_accuracy", "until", "stop_when_diverged", "rules", "evaluate_every", "checkpoint_every",
    "keep_checkpoints", "device", "threads",
)  # fmt: skip
"""Keys of the configuration that a branch may change: all others decide what the weights are, or what they read."""
_BITS = 2**63


def changed_config(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The configuration of a branch.

    Args:
        config: of the run that it leaves.
        changes: values by key, by own name or dotted.

    Raises:
        ConfigError: for a key that is unknown, or cannot change in the middle of a run, or a value that it does not
            take.
    """
    given = flat(changes)
    for key in given:
        if key not in CHANGEABLE:
            raise ConfigError(unknown("key of a branch", key, CHANGEABLE) + f". Another {key} needs a new run")
    return layered(as_mapping(config), given)


def changed_state(state: Mapping[str, Any], old: RunConfig, new: RunConfig) -> dict[str, Any]:
    """A checkpoint's state under another configuration: its weights and moments, the other settings.

    Args:
        state: of a run of ``old``.
        old: the configuration that it was saved under.
        new: the one that it goes on with.
    """
    data = load_data(old)
    optimizer = dict(state["optimizer"])
    optimizer["param_groups"] = _regrouped(optimizer["param_groups"], build_model(old, data), old, new)
    if CARRIED in optimizer:
        changed = _differing(old, new)
        plan = {"sparsity": 0.0 if new.method.ends_dense else getattr(new.method, "sparsity", 0.0)}
        plan["total_steps"] = new.run.total_steps(data.train_size)
        optimizer[CARRIED] = [_planned(one, plan, changed) for one in optimizer[CARRIED]]
    found = {**state, "optimizer": optimizer, "config": dict(as_mapping(new))}
    if old.run.batch_size != new.run.batch_size:  # what is given now wins over what a person had set
        found["batches"] = {key: value for key, value in state["batches"].items() if key != "batch_size"}
    return found


def reseeded(state: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A checkpoint's state with other random draws from here on: order of samples, dropout, rows, noise.

    Raises:
        ConfigError: where samples are read while the run trains, whose order is a function of the run's seed.
    """
    batches = dict(state["batches"])
    if "generator" not in batches:
        raise ConfigError("another seed needs data in memory: the order of data that is streamed is fixed")
    draws = torch.Generator().manual_seed((seed + 0xBA7C4) % _BITS)
    left = batches["order"][batches["position"] :]
    rest = left[torch.randperm(len(left), generator=draws)]
    batches["order"] = torch.cat([batches["order"][: batches["position"]], rest])
    batches["generator"] = draws.get_state()
    optimizer = dict(state["optimizer"])
    if CARRIED in optimizer:
        optimizer[CARRIED] = [_redrawn(one, seed) for one in optimizer[CARRIED]]
    new = torch.Generator().manual_seed((seed + 0x5C0FFEE) % _BITS)
    return {**state, "batches": batches, "torch_rng": new.get_state(), "device_rng": None, "optimizer": optimizer}


def _redrawn(controller: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A controller's state whose generators start afresh, each with a seed of its own."""
    random = {
        role: {"seed": (part["seed"] + 7_919 * (seed + 1)) % _BITS, "states": {}}
        for role, part in controller["random"].items()
    }
    return {**controller, "random": random}


def _planned(controller: Mapping[str, Any], plan: Mapping[str, Any], changed: set[str]) -> dict[str, Any]:
    """A controller's state under another plan; a target that a person had set gives way to one that is given now."""
    wire = controller["plan"]
    found = {**controller, "plan": {**wire, "event": {**wire["event"], **plan}}}
    asked = dict(controller.get("interventions", {}))
    if asked and "sparsity" in changed:
        found["interventions"] = {**asked, "sparsity": plan["sparsity"]}
    return found


def _regrouped(groups: list[dict[str, Any]], model: nn.Module, old: RunConfig, new: RunConfig) -> list[dict[str, Any]]:
    """Settings of the optimizer's groups, with what the new configuration has otherwise than the old one."""
    before, after = (make_optimizer(config, model).param_groups for config in (old, new))
    if len(before) != len(after):
        raise ConfigError("the change would regroup the optimizer's parameters: start a new run")
    return [
        {**group, **{key: value for key, value in then.items() if key != "params" and value != was.get(key)}}
        for group, was, then in zip(groups, before, after, strict=True)
    ]


def _differing(old: RunConfig, new: RunConfig) -> set[str]:
    one, two = flat_values(as_mapping(old)), flat_values(as_mapping(new))
    return {key for key in two if one.get(key) != two[key]}
