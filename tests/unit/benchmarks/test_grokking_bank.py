"""The bank of runs: a member of a stack is the run that it would be alone, and its numbers are the monitors' own."""

from __future__ import annotations

import pytest
import torch
from grokking_bank.members import Member, problem, rows_of
from grokking_bank.plan import BLOCKS, Block, block
from grokking_bank.readings import PROBE, SERIES, Readings
from grokking_bank.stack import BETAS, EPS, Stack
from grokking_bank.store import evaluation_steps, read_bank, train_stack, write_stack
from torch import nn

from surgecollapse.functional import naive_loss_minimization, singular_values, stable_rank

TASK = problem("add-7")
MEMBERS = (
    Member(seed=0, lr=0.01, weight_decay=0.3, train_fraction=0.5),
    Member(seed=1, lr=0.002, weight_decay=0.0, train_fraction=0.8, init_scale=2.0, label_noise=1.0),
    Member(seed=2, lr=1e4, weight_decay=1.0, train_fraction=0.3),
)


def alone(stack, which):
    """The same net as a plain module with torch's own optimizer and loss."""
    member = stack.members[which]
    net = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 7))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), stack.weights, strict=True):
            parameter.copy_(value[which].reshape(parameter.shape))
    optimizer = torch.optim.AdamW(net.parameters(), member.lr, BETAS, EPS, member.weight_decay)
    return net, optimizer, rows_of(TASK, member)


def train(net, optimizer, rows, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(rows.x_train), rows.y_train).backward()
        optimizer.step()


@pytest.mark.parametrize("which", [0, 1])
def test_a_member_of_a_stack_is_the_run_that_it_would_be_alone(which):
    """Also beside one that diverges (the third)."""
    stack = Stack(TASK, MEMBERS, 32)
    net, optimizer, rows = alone(stack, which)
    for _ in range(120):
        stack.train_step()
    train(net, optimizer, rows, 120)
    for parameter, value in zip(net.parameters(), stack.weights, strict=True):
        torch.testing.assert_close(value[which].reshape(parameter.shape), parameter.detach(), rtol=1e-3, atol=1e-4)


def test_initial_weights_are_those_of_linear_layers_times_the_scale():
    stack = Stack(
        TASK, [Member(seed=s, lr=0.1, weight_decay=0, train_fraction=0.5, init_scale=3) for s in range(9)], 64
    )
    first = stack.weights[0].detach()
    assert first.abs().max() <= 3 / 14**0.5
    assert first.std().item() == pytest.approx(3 / 14**0.5 / 3**0.5, rel=0.03)


def test_readings_are_those_of_the_net_alone():
    stack = Stack(TASK, MEMBERS[:2], 32)
    readings = Readings(stack)
    net, optimizer, rows = alone(stack, 1)
    for _ in range(4):
        stack.train_step()
    readings.prepare()
    stack.train_step()
    found = dict(zip(SERIES, readings.measure()[1].tolist(), strict=True))
    train(net, optimizer, rows, 4)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, optimizer, rows, 1)
    with torch.no_grad():
        logits, labels = net(rows.x_train), rows.y_train
        hidden = net[1](net[0](rows.x_train[:PROBE]))
        wanted = {
            "loss/train": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy/train": (logits.argmax(1) == labels).float().mean().item(),
            "loss/validation": nn.functional.cross_entropy(net(rows.x_validation), rows.y_validation).item(),
            "norm/weight": sum(p.square().sum() for p in net.parameters()).sqrt().item(),
            "norm/update": sum((p - before[n]).square().sum() for n, p in net.named_parameters()).sqrt().item(),
            "rank/stable": sum(stable_rank(singular_values(net[i].weight)).item() for i in (0, 2)) / 2,
            "rank/activation_stable": stable_rank(singular_values(hidden)).item(),
            "confidence/train": logits.softmax(1).amax(1).mean().item(),
        }
    gradients = {n: p.grad for n, p in net.named_parameters()}
    wanted["alignment/naive_loss"] = naive_loss_minimization(before, gradients).overall.item()
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_sharpness_is_half_the_largest_eigenvalue_of_the_preconditioned_hessian():
    stack = Stack(problem("add-5"), MEMBERS[:2], 8)
    for _ in range(30):
        stack.train_step()
    readings = Readings(stack)
    for _ in range(40):
        found = readings.measure()[:, SERIES.index("curvature/sharpness")]
    for m, weights in enumerate(zip(*stack.weights, strict=True)):
        x, y = stack.x_train[m, :PROBE], stack.y_train[m, :PROBE]
        sizes = [w.numel() for w in weights]

        def loss(flat, x=x, y=y, sizes=sizes, shapes=[w.shape for w in weights]):  # noqa: B006
            a, b, c, d = (part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True))
            return nn.functional.cross_entropy(torch.relu(x @ a.T + b) @ c.T + d, y)

        hessian = torch.autograd.functional.hessian(loss, stack.flat[m].clone())
        roots = stack.step_sizes()[m].sqrt()
        values = torch.linalg.eigvalsh(roots[:, None] * hessian * roots)
        assert found[m].item() == pytest.approx(values[values.abs().argmax()].item() / 2, rel=0.02)


def test_group_multiplication_is_associative_and_not_commutative():
    task = problem("s4")
    table = task.labels.view(24, 24)
    a, b, c = torch.randint(24, (3, 200), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])
    assert not torch.equal(table, table.T)


def test_random_labels_are_random_and_validation_labels_are_not():
    task = problem("mul-23")
    member = Member(seed=3, lr=0.1, weight_decay=0.0, train_fraction=0.7, label_noise=1.0)
    noisy, clean = rows_of(task, member), rows_of(task, Member(seed=3, lr=0.1, weight_decay=0.0, train_fraction=0.7))
    assert torch.equal(noisy.x_train, clean.x_train)
    assert torch.equal(noisy.y_validation, clean.y_validation)
    assert (noisy.y_train == clean.y_train).float().mean() < 0.15


def test_a_file_gives_back_the_settings_and_the_numbers_to_twelve_bits(tmp_path):
    small = Block(task="add-7", members=MEMBERS[:2], hidden=16, steps=60, together=2)
    write_stack(tmp_path / "add-7-00.npz", MEMBERS[:2], small, lambda _: None)
    steps, values = train_stack(TASK, MEMBERS[:2], small)
    runs = read_bank(tmp_path)
    assert [run.member for run in runs] == list(MEMBERS[:2])
    assert runs[0].steps.tolist() == steps == evaluation_steps(60)
    for run, wanted in zip(runs, values, strict=True):
        for i, name in enumerate(SERIES):
            assert run.series[name] == pytest.approx(wanted[:, i], rel=2**-12, nan_ok=True)


def test_every_member_of_every_block_has_a_seed_of_its_own():
    seeds = [member.seed for name in BLOCKS for member in block(name).members]
    assert len(seeds) == len(set(seeds))


def test_a_changed_byte_of_a_file_of_the_bank_is_noticed(tmp_path):
    small = Block(task="add-7", members=MEMBERS[:1], hidden=32, steps=60)
    write_stack(tmp_path / "a.npz", small.members, small, lambda _: None)
    (run,) = read_bank(tmp_path)
    assert run.steps.tolist() == evaluation_steps(60)
    content = (tmp_path / "a.npz").read_bytes()
    for place in [*range(0, len(content), 97), *range(len(content) - 110, len(content))]:
        changed = content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]
        (tmp_path / "a.npz").write_bytes(changed)
        with pytest.raises(ValueError, match="is damaged or no file of the bank"):
            read_bank(tmp_path)
