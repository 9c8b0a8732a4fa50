"""Surge-Collapse training with entropy dynamics for PyTorch.

Importing the package imports nothing else: names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgecollapse.attaching.attach import attach
    from surgecollapse.attaching.averaging import average_weights
    from surgecollapse.attaching.monitoring import watch_training
    from surgecollapse.attaching.row_norms import clip_rows
    from surgecollapse.attaching.sharpness import single_step_sam
    from surgecollapse.attaching.transforms import transform_gradients
    from surgecollapse.controller.controller import Controller
    from surgecollapse.controller.options import Monitoring, Readings, Target, Updates
    from surgecollapse.events import Decision, Intervention, LayerReading, Measurement, Plan, Reading
    from surgecollapse.gradients.clip import ClipNorm
    from surgecollapse.gradients.equalize import EqualizeSpectrum
    from surgecollapse.gradients.gradient_filter import GradientFilter
    from surgecollapse.gradients.grokfast import Grokfast, GrokfastMA
    from surgecollapse.gradients.orthograd import OrthoGrad
    from surgecollapse.losses import StableMaxCrossEntropy, stablemax_cross_entropy
    from surgecollapse.policies import (
        ACDC,
        CyclicPruning,
        EntropyCycles,
        EntropyThresholds,
        FixedInterval,
        NoOp,
        make_policy,
    )
    from surgecollapse.record.frames import load_run
    from surgecollapse.record.memory import MemoryRecorder
    from surgecollapse.record.store import RunStore
    from surgecollapse.tuning.loop import tune

__version__ = "0.2.0"

_HOME = {
    "attach": "attaching.attach",
    "average_weights": "attaching.averaging",
    "clip_rows": "attaching.row_norms",
    "single_step_sam": "attaching.sharpness",
    "transform_gradients": "attaching.transforms",
    "Controller": "controller.controller",
    "Monitoring": "controller.options",
    "Readings": "controller.options",
    "Target": "controller.options",
    "Updates": "controller.options",
    "ACDC": "policies",
    "EntropyCycles": "policies",
    "EntropyThresholds": "policies",
    "NoOp": "policies",
    "FixedInterval": "policies",
    "CyclicPruning": "policies",
    "make_policy": "policies",
    "Decision": "events",
    "Intervention": "events",
    "LayerReading": "events",
    "Measurement": "events",
    "Plan": "events",
    "Reading": "events",
    "ClipNorm": "gradients.clip",
    "EqualizeSpectrum": "gradients.equalize",
    "GradientFilter": "gradients.gradient_filter",
    "Grokfast": "gradients.grokfast",
    "GrokfastMA": "gradients.grokfast",
    "OrthoGrad": "gradients.orthograd",
    "StableMaxCrossEntropy": "losses",
    "stablemax_cross_entropy": "losses",
    "load_run": "record.frames",
    "MemoryRecorder": "record.memory",
    "RunStore": "record.store",
    "tune": "tuning.loop",
    "watch_training": "attaching.monitoring",
}

__all__ = [
    "ACDC",
    "ClipNorm",
    "Controller",
    "CyclicPruning",
    "Decision",
    "EntropyCycles",
    "EntropyThresholds",
    "EqualizeSpectrum",
    "FixedInterval",
    "GradientFilter",
    "Grokfast",
    "GrokfastMA",
    "Intervention",
    "LayerReading",
    "Measurement",
    "MemoryRecorder",
    "Monitoring",
    "NoOp",
    "OrthoGrad",
    "Plan",
    "Reading",
    "Readings",
    "RunStore",
    "StableMaxCrossEntropy",
    "Target",
    "Updates",
    "attach",
    "average_weights",
    "clip_rows",
    "load_run",
    "make_policy",
    "single_step_sam",
    "stablemax_cross_entropy",
    "transform_gradients",
    "tune",
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
