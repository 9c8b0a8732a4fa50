"""Restricted and excluded loss on nets that are known: a pure circuit, pure memory, and both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surgecollapse.analysis.progress import circuit, key_frequencies, progress, progress_history, waves
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.report.analyses.modular_progress import modular_progress

P = 13
A, B = np.meshgrid(np.arange(P), np.arange(P), indexing="ij")
TRAINING = (A * 5 + B * 3) % 10 < 4


def trigonometric(keys=(2, 5), operation="add", scale=4.0):
    """The net of the paper: Σ_k cos(2πk(a ± b − c)/p)."""
    answer = (A + B if operation == "add" else A - B)[:, :, None] - np.arange(P)
    return scale * sum(np.cos(2 * np.pi * k * answer / P) for k in keys)


def memory(labels, scale=9.0):
    """Right on the training questions, and silent elsewhere."""
    return scale * (labels[:, :, None] == np.arange(P)) * TRAINING[:, :, None]


@pytest.mark.parametrize("operation", ["add", "sub"])
def test_a_pure_circuit_is_all_restricted_and_nothing_excluded(operation):
    labels = (A + B if operation == "add" else A - B) % P
    found = progress(trigonometric(operation=operation), labels, TRAINING, (2, 5), operation=operation)
    assert found.restricted == pytest.approx(found.train * TRAINING.mean() + found.test * (1 - TRAINING.mean()))
    assert found.excluded == pytest.approx(np.log(P)), "without the circuit every answer is as likely"
    assert found.train < 0.1


def test_pure_memory_has_no_circuit():
    labels = (A + B) % P
    found = progress(memory(labels), labels, TRAINING, (2, 5))
    assert found.train < 0.01
    assert found.test == pytest.approx(np.log(P))
    assert found.restricted > 0.6 * np.log(P)
    assert found.excluded < 0.2


def test_losses_are_torchs():
    logits, labels = np.random.default_rng(0).normal(size=(P, P, P)), (A * B) % P
    whole = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits[TRAINING]), torch.from_numpy(labels[TRAINING])
    ).item()
    assert progress(logits, labels, TRAINING).train == pytest.approx(whole)


def test_parts_are_projections():
    logits = np.random.default_rng(1).normal(size=(P, P, 4))
    part = circuit(logits, (1, 6))
    assert np.allclose(circuit(part, (1, 6)), part)
    assert np.allclose(circuit(part, (2, 3)), 0)
    assert abs((part * (logits - part)).sum()) < 1e-9
    every = circuit(logits, range(1, 7))
    by_sum = np.stack([logits[s == (A + B) % P].mean(axis=0) for s in range(P)])
    assert np.allclose(every, by_sum[(A + B) % P] - logits.mean(axis=(0, 1))), "all waves: the mean by a + b"


def test_key_frequencies_are_those_of_the_circuit_strongest_first():
    logits = trigonometric((2,), scale=5.0) + trigonometric((6,), scale=3.0) + memory((A + B) % P, 1.0)
    assert key_frequencies(logits, 2) == (2, 6)


def test_a_history_tells_a_circuit_that_takes_over_from_memory():
    labels = (A + B) % P
    nets = [memory(labels, 9.0 * (1 - share)) + trigonometric(scale=4.0 * share) for share in (0.0, 0.5, 1.0)]
    found = progress_history((0, 10, 20), [progress(net, labels, TRAINING, (2, 5)) for net in nets])
    assert found.frequencies == (2, 5)
    assert found.restricted[0] > found.restricted[1] > found.restricted[2]
    assert found.excluded[0] < found.excluded[1] < found.excluded[2]
    assert found.excluded[2] == pytest.approx(np.log(P)), "nothing is left without the circuit"
    assert found.to_dict()["steps"] == (0, 10, 20)


def test_measures_of_other_frequencies_make_no_history():
    labels = (A + B) % P
    one, other = (progress(trigonometric(), labels, TRAINING, keys) for keys in ((2, 5), (1, 3)))
    with pytest.raises(ValueError, match="different key frequencies"):
        progress_history((0, 1), [one, other])
    with pytest.raises(ValueError, match="got 1 for 2"):
        progress_history((0, 1), [one])


def test_a_history_is_drawn_with_its_phases():
    pytest.importorskip("matplotlib")
    labels = (A + B) % P
    measures = [progress(trigonometric(scale=s), labels, TRAINING, (2, 5)) for s in (0.1, 4.0)]
    history = progress_history((0, 10), measures, [("memorization", 0, 5), ("cleanup", 5, 10)])
    (axes,) = history.plot().axes
    assert {text.get_text() for text in axes.texts} == {"memorization", "cleanup"}
    assert tuple(axes.lines[2].get_ydata()) == history.restricted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: waves(12, 1), "must be odd"),
        (lambda: waves(13, 7), "from 1 to 6 for modulus 13, got 7"),
        (lambda: waves(13, 1, operation="mul"), "must be 'add' or 'sub', got 'mul'"),
        (lambda: circuit(np.zeros((3, 4, 5)), (1,)), r"got the shape \(3, 4, 5\)"),
        (lambda: circuit(np.full((3, 3, 3), np.nan), (1,)), "not finite"),
        (lambda: circuit(np.zeros((5, 5, 5)), (1, 1)), "each frequency counts once"),
        (lambda: progress(np.zeros((3, 3, 3)), np.zeros((3, 2), int), np.ones((3, 3))), "labels and training must"),
        (lambda: progress(np.zeros((3, 3, 3)), np.zeros((3, 3), int), np.ones((3, 3))), "some not"),
    ],
)
def test_what_has_no_measure_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("model", ["mlp", "transformer", "decoder"])
def test_measures_of_a_run_are_those_of_its_net(model):
    config = make_config(task="modular", operation="sub", modulus=7, model=model, widths=(8, 8))
    data = load_data(config)
    net = build_model(config, data)
    found = modular_progress(net, config, data, (1, 2))
    losses = make_loss(config, data)
    assert found.train == pytest.approx(losses(predict(net, data.x_train), data.y_train).item(), rel=1e-5)
    rest, answers = torch.cat([data.x_validation, data.x_test]), torch.cat([data.y_validation, data.y_test])
    assert found.test == pytest.approx(losses(predict(net, rest), answers).item(), rel=1e-5)
    assert found.frequencies == (1, 2)
    with pytest.raises(ConfigError, match="this run is modular mul"):
        modular_progress(net, make_config(task="modular", operation="mul"), data)
