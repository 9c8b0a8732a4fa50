"""Surge-Collapse training with entropy dynamics for PyTorch.

Importing the package imports nothing else: names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgecollapse.attaching import attach, transform_gradients
    from surgecollapse.averaging import average_weights
    from surgecollapse.controller import Controller
    from surgecollapse.decide import (
        Cycles,
        EntropyBoundedCycles,
        EntropyRules,
        Hold,
        Intervals,
        Waves,
        make_policy,
    )
    from surgecollapse.events import Decision, Intervention, LayerReading, Measurement, Plan, Reading
    from surgecollapse.gradients.clip import ClipNorm
    from surgecollapse.gradients.gradient_filter import GradientFilter
    from surgecollapse.gradients.grokfast import Grokfast, GrokfastMA
    from surgecollapse.gradients.orthograd import OrthoGrad
    from surgecollapse.losses import StableMaxCrossEntropy, stablemax_cross_entropy
    from surgecollapse.record.frames import load_run
    from surgecollapse.record.memory import MemoryRecorder
    from surgecollapse.record.store import RunStore
    from surgecollapse.watching import watch_training

__version__ = "0.1.0"

_HOME = {
    "attach": "attaching",
    "average_weights": "averaging",
    "transform_gradients": "attaching",
    "Controller": "controller",
    "Cycles": "decide",
    "EntropyBoundedCycles": "decide",
    "EntropyRules": "decide",
    "Hold": "decide",
    "Intervals": "decide",
    "Waves": "decide",
    "make_policy": "decide",
    "Decision": "events",
    "Intervention": "events",
    "LayerReading": "events",
    "Measurement": "events",
    "Plan": "events",
    "Reading": "events",
    "ClipNorm": "gradients.clip",
    "GradientFilter": "gradients.gradient_filter",
    "Grokfast": "gradients.grokfast",
    "GrokfastMA": "gradients.grokfast",
    "OrthoGrad": "gradients.orthograd",
    "StableMaxCrossEntropy": "losses",
    "stablemax_cross_entropy": "losses",
    "load_run": "record.frames",
    "MemoryRecorder": "record.memory",
    "RunStore": "record.store",
    "watch_training": "watching",
}

__all__ = [
    "ClipNorm",
    "Controller",
    "Cycles",
    "Decision",
    "EntropyBoundedCycles",
    "EntropyRules",
    "GradientFilter",
    "Grokfast",
    "GrokfastMA",
    "Hold",
    "Intervals",
    "Intervention",
    "LayerReading",
    "Measurement",
    "MemoryRecorder",
    "OrthoGrad",
    "Plan",
    "Reading",
    "RunStore",
    "StableMaxCrossEntropy",
    "Waves",
    "attach",
    "average_weights",
    "load_run",
    "make_policy",
    "stablemax_cross_entropy",
    "transform_gradients",
    "watch_training",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'surgecollapse' has no attribute {name!r}")
    value = getattr(import_module(f"surgecollapse.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
