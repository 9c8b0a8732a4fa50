"""The monitors of dynamic modes and commutators: against closed forms, passive, resumed bitwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse import MemoryRecorder, watch_training
from surgecollapse.functional import Hessian, batch_loss, commutator_defect
from surgecollapse.observe.monitors.commutator import Commutator
from surgecollapse.observe.monitors.dynamic_modes import QUANTILES, DynamicModes
from surgecollapse.protocols import MonitorContext


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data():
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, (x[:, 0] > 0).long()


def context(step, model, **parts):
    return MonitorContext(step=step, model=model, weights={n: p.detach() for n, p in model.named_parameters()}, **parts)


def play(monitor, logits, steps=None):
    found = {}
    for i, rows in enumerate(logits):
        step = 10 * (i + 1) if steps is None else steps[i]
        series = monitor.measure(context(step, nn.Identity(), scores=rows))
        if series:
            found[step] = series["modes/residual"].item()
    return found


def decaying(count, pole=0.8):
    """Two classes whose log-odds are such that the log-probability of the likelier moves by one mode."""
    log_p = torch.tensor([-0.1 - 0.5 * pole**t for t in range(count)], dtype=torch.float64)
    return [torch.stack([p, torch.log1p(-p.exp())]).expand(6, 2) for p in log_p]


def test_one_decaying_mode_leaves_no_residual_and_noise_does():
    assert play(DynamicModes(), decaying(16)) == {160: pytest.approx(0.0, abs=1e-6)}
    noise = torch.randn(16, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert play(DynamicModes(), list(noise))[160] > 0.3


def test_it_waits_for_a_full_window_of_even_spacing():
    logits = decaying(24)
    steps = [10 * (i + 1) for i in range(8)] + [100 + 5 * i for i in range(16)]
    found = play(DynamicModes(window=12), logits, steps)
    # At 100 the distance is 20, at 105 it is 5: the window begins anew with the snapshot of step 100.
    assert min(found) == 100 + 5 * 11


def test_labels_choose_the_class_and_without_them_the_likeliest_counts():
    logits = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    from surgecollapse.observe.monitors.dynamic_modes import _quantiles

    labels = torch.arange(64) % 3
    log_p = logits.double().log_softmax(1)
    chosen = log_p[torch.arange(64), labels]
    ends = _quantiles(logits, labels)[[0, -1]]
    assert ends.tolist() == [chosen.min().item(), chosen.max().item()]
    assert _quantiles(logits, None)[-1] == log_p.max()
    assert len(_quantiles(logits, None)) == QUANTILES


def test_the_defect_is_that_of_every_second_row_and_its_neighbors():
    model, (x, y) = net(), data()
    found = Commutator().measure(context(1, model, inputs=((x,), {}), targets=y))["commutator/defect"]
    weights = {n: p.detach() for n, p in model.named_parameters()}
    halves = [Hessian(batch_loss(model, F.cross_entropy, x[k::2], y[k::2]), weights) for k in (0, 1)]
    assert found.item() == pytest.approx(commutator_defect(*halves).item(), rel=1e-9)
    assert found > 0


def test_weights_that_a_mask_holds_at_zero_take_no_part():
    model, (x, y) = net(), data()
    mask = torch.ones(8, 4, dtype=torch.float64)
    mask[:, 1:] = 0.0
    masked = context(1, model, inputs=((x,), {}), targets=y, masks={"0.weight": mask})
    small = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(mask)
        small[0].weight.copy_(model[0].weight[:, :1])
        for there, here in (
            (small[0].bias, model[0].bias),
            (small[2].weight, model[2].weight),
            (small[2].bias, model[2].bias),
        ):
            there.copy_(here)
    wanted = Commutator().measure(context(1, small, inputs=((x[:, :1],), {}), targets=y))
    found = Commutator().measure(masked)
    assert found["commutator/defect"].item() == pytest.approx(wanted["commutator/defect"].item(), rel=1e-9)


def test_nothing_is_said_without_a_loss_labels_or_two_rows():
    model, (x, y) = net(), data()
    assert Commutator().measure(context(1, model, inputs=((x,), {}), targets=y.double())) == {}
    assert Commutator().measure(context(1, model, inputs=((x,), {}))) == {}
    assert Commutator().measure(context(1, model, inputs=((x[:1],), {}), targets=y[:1])) == {}
    assert DynamicModes().measure(context(1, model)) == {}
    with pytest.raises(ValueError, match="a window of at least"):
        DynamicModes(window=8)


def test_training_with_them_is_bitwise_the_training_without():
    x, y = data()
    weights = []
    for monitors in ((), ("dynamic_modes", "commutator")):
        model, recorder = net(), MemoryRecorder()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        with watch_training(model, optimizer, monitors=list(monitors), every=2, budget=None, recorders=[recorder]) as w:
            for _ in range(40):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                w.note(loss=loss, targets=y)
                optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert {e.name for e in recorder.events} >= {"modes/residual", "commutator/defect"}


def test_the_window_is_checkpointed():
    logits = decaying(17, pole=0.6)
    noise = torch.randn(17, 6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logits = [a + 0.01 * b for a, b in zip(logits, noise, strict=True)]
    whole = play(DynamicModes(), logits)
    first, second = DynamicModes(), DynamicModes()
    play(first, logits[:9])
    second.load_state_dict(first.state_dict())
    assert play(second, logits[9:], [10 * (i + 1) for i in range(9, 17)]) == whole
