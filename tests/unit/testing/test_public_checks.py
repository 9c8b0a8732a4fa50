"""The public checks: the library's own parts pass them, and what breaks a contract is found."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import pytest
import torch

import surgecollapse
from surgecollapse.functional import SALIENCY
from surgecollapse.observe.monitors import MONITORS
from surgecollapse.testing import (
    CRITERION_CHECKS,
    MONITOR_CHECKS,
    TRANSFORM_CHECKS,
    check_analysis,
    check_criterion,
    check_monitor,
    check_task,
    check_tracker,
    check_transform,
)
from surgecollapse.testing.monitor import series_are_named_and_finite
from surgecollapse.trackers.tensorboard import TensorBoard

TRANSFORMS = {
    "Grokfast": surgecollapse.Grokfast,
    "GrokfastMA": partial(surgecollapse.GrokfastMA, 3),
    "GradientFilter": partial(surgecollapse.GradientFilter, [0.5, 0.5]),
    "OrthoGrad": surgecollapse.OrthoGrad,
    "EqualizeSpectrum": surgecollapse.EqualizeSpectrum,
    "ClipNorm": partial(surgecollapse.ClipNorm, 1.0),
}


def name_of(check):
    return check.__name__


LATE = ["masks", "curvature", "criticality", "dynamic_modes", "commutator"]


@pytest.mark.parametrize("check", MONITOR_CHECKS, ids=name_of)
@pytest.mark.parametrize("name", sorted(set(MONITORS) - set(LATE)))
def test_our_monitors(name, check):
    """Masks need a controller, the others more steps: their own tests show what they measure."""
    check(MONITORS[name])


@pytest.mark.parametrize("check", [c for c in MONITOR_CHECKS if c is not series_are_named_and_finite], ids=name_of)
@pytest.mark.parametrize("name", LATE)
def test_monitors_that_need_more(name, check):
    check(MONITORS[name])


@pytest.mark.parametrize("check", TRANSFORM_CHECKS, ids=name_of)
@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_our_transforms(make, check):
    check(make)


@pytest.mark.parametrize("check", CRITERION_CHECKS, ids=name_of)
@pytest.mark.parametrize("name", SALIENCY)
def test_our_criteria(name, check):
    check(SALIENCY[name])


@pytest.mark.skipif(find_spec("tensorboardX") is None, reason="tensorboardX is not installed")
def test_our_tensorboard():
    check_tracker(TensorBoard)


class Noisy:
    """A monitor that writes to the weights, or does not name its series."""

    def __init__(self, fault="", needs=()):
        self.name, self.needs, self.fault = "noisy", needs, fault

    def measure(self, context):
        if self.fault == "writes":
            for weight in context.weights.values():
                weight.mul_(1.001)
        return {"plain" if self.fault == "unnamed" else "group/one": 1.0}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(Noisy, "writes"), "ends with other weights"),
        (partial(Noisy, "unnamed"), "expected group/name"),
        (partial(Noisy, needs=("loss",)), "unknown needs"),
        (object, "expected name, needs"),
    ],
)
def test_a_monitor_that_breaks_the_contract_is_found(make, words):
    with pytest.raises(AssertionError, match=words):
        check_monitor(make)


class Faulty:
    """A transform with one fault."""

    stage = "filter"

    def __init__(self, fault):
        self.fault, self.calls = fault, 0

    def __call__(self, params, grads):
        self.calls += 1
        if self.fault == "replaces":
            grads[0] = grads[0] * 2
        if self.fault == "weights":
            params[0].add_(1)
        if self.fault == "forgets":
            grads[0].mul_(self.calls)

    def state_dict(self, params):
        return {}

    def load_state_dict(self, state, params):
        pass


@pytest.mark.parametrize(
    ("fault", "words"),
    [("replaces", "replaces gradients"), ("weights", "writes to the weights"), ("forgets", "differs")],
)
def test_a_transform_that_breaks_the_contract_is_found(fault, words):
    with pytest.raises(AssertionError, match=words):
        check_transform(partial(Faulty, fault))


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (lambda weight, signal: weight, "negative"),
        (lambda weight, signal: weight.abs().sum(), "expected scores of shape"),
        (lambda weight, signal: weight.abs() / 0 * 0, "not finite"),
        (lambda weight, signal: weight.abs_(), "writes to the weight"),
        (lambda weight, signal: torch.rand(weight.shape), "global generator"),
    ],
)
def test_a_criterion_that_breaks_the_contract_is_found(criterion, words):
    with pytest.raises(AssertionError, match=words):
        check_criterion(criterion)


def test_a_task_that_breaks_the_contract_is_found():
    with pytest.raises(AssertionError, match=r"expected a surgecollapse\.lab\.data\.dataset\.Data"):
        check_task(lambda seed, data_dir: None)


def test_an_analysis_that_finds_nothing_is_told_to_say_why():
    with pytest.raises(AssertionError, match="NotApplicable"):
        check_analysis(lambda runs: [], [])


def test_a_tracker_that_says_nothing_at_the_end_is_found():
    class Silent:
        def __init__(self, name, config, folder): ...
        def __getattr__(self, name):
            return lambda *args: None

    with pytest.raises(AssertionError, match="expected how to look at the run"):
        check_tracker(Silent)
