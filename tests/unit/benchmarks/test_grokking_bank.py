"""The bank of runs: a member of a stack is the run that it would be alone, and its numbers are the monitors' own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grokking_bank.members import ENDINGS, VERBS, Member, problem, rows_of
from grokking_bank.plan import BLOCKS, FIRST_BANK, SECOND_BANK, Block, block
from grokking_bank.readings import PROBE, QUANTILES, SERIES, WINDOW, Readings
from grokking_bank.stack import BETAS, EPS, AttentionStack, DeepStack, Stack
from grokking_bank.store import evaluation_steps, read_bank, train_stack, write_stack
from torch import nn

from surgecollapse.functional import (
    Hessian,
    commutator_defect,
    dynamic_mode_residual,
    naive_loss_minimization,
    singular_values,
    stable_rank,
)
from surgecollapse.observe.monitors.update_geometry import UpdateGeometry
from surgecollapse.protocols import MonitorContext

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


class Transformer(nn.Module):
    """What :class:`AttentionStack` stands for, from torch's own parts."""

    def __init__(self, tokens, length, width, classes):
        super().__init__()
        self.table, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, classes, bias=False)

    def forward(self, x):
        stream = self.table(x) + self.places.weight
        q, k, v = (
            part(stream).unflatten(2, (AttentionStack.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        heard = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        stream = stream + self.out(heard)
        stream = stream + self.fall(torch.relu(self.rise(stream)))
        return self.head(stream[:, -1])


def deep():
    return nn.Sequential(
        nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 7)
    )


@pytest.mark.parametrize(
    ("kind", "make"), [(DeepStack, deep), (AttentionStack, lambda: Transformer(8, 3, 32, 7))], ids=["deep", "attention"]
)
def test_a_member_of_a_stack_of_other_nets_is_the_net_of_torchs_own_parts(kind, make):
    """Also beside one that diverges (the third)."""
    stack, net, member = kind(TASK, MEMBERS, 32), make(), MEMBERS[0]
    parameters = list(net.parameters())
    assert len(parameters) == len(stack.weights)
    with torch.no_grad():
        for parameter, value in zip(parameters, stack.weights, strict=True):
            parameter.copy_(value[0].reshape(parameter.shape))
    optimizer = torch.optim.AdamW(parameters, member.lr, BETAS, EPS, member.weight_decay)
    rows = rows_of(TASK, member)
    rows = rows._replace(x_train=stack.seen(rows.x_train))
    for _ in range(60):
        stack.train_step()
    train(net, optimizer, rows, 60)
    # Rounding grows with the steps: 60 of Adam at rate .01, in float32.
    for parameter, value in zip(parameters, stack.weights, strict=True):
        torch.testing.assert_close(value[0].reshape(parameter.shape), parameter.detach(), rtol=2e-3, atol=2e-4)


def test_tokens_are_the_two_things_and_the_sign_or_the_bits_and_the_sign():
    stack = AttentionStack(TASK, MEMBERS[:1], 8)
    assert stack.seen(TASK.inputs)[[0, 1, 8]].tolist() == [[0, 0, 7], [0, 1, 7], [1, 1, 7]]
    assert stack.seen(torch.tensor([[1.0, -1.0, -1.0]])).tolist() == [[1, 0, 0, 2]]


@pytest.mark.parametrize("kind", [Stack, DeepStack, AttentionStack])
def test_rows_commutators_and_modes_are_those_of_the_library(kind):
    stack = kind(problem("add-5"), MEMBERS[:2], 8)
    readings, series, flats = Readings(stack), [], []
    for _ in range(WINDOW):
        for _ in range(3):
            stack.train_step()
        readings.prepare()
        flats.append([stack.flat.clone()])
        stack.train_step()
        flats[-1].append(stack.flat.clone())
        series.append(readings.measure())
    found = dict(zip(SERIES, series[-1][1].tolist(), strict=True))
    assert all(torch.isnan(values[:, SERIES.index("modes/residual")]).all() for values in series[:-1])
    before, now = ([stack.split(flat)[i][1] for i in stack.matrices] for flat in flats[-1])
    watch = UpdateGeometry(rows=1000)
    # All rows count together; rows of unequal length do not fit into one tensor, so they are padded with zeros.
    width = max(m.shape[1] for m in now)
    padded = [torch.cat([nn.functional.pad(m, (0, width - m.shape[1])) for m in some]) for some in (before, now)]
    watch.prepare(MonitorContext(step=4, model=nn.Identity(), weights={"w": padded[0]}))
    geometry = watch.measure(MonitorContext(step=5, model=nn.Identity(), weights={"w": padded[1]}))
    lengths = padded[1].norm(dim=1)
    wanted = {
        "update/radial_share": geometry["update/radial_share"]["w"].item(),
        "update/row_ratio": geometry["update/row_ratio"]["w"].item(),
        "norm/row_median": lengths.median().item(),
        "norm/row_spread": (lengths.std() / lengths.mean()).item(),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-4)
    assert torch.isfinite(torch.tensor([found["modes/residual"], found["modes/residual_validation"]])).all()


@pytest.mark.parametrize("kind", [Stack, DeepStack, AttentionStack])
def test_the_commutator_of_a_member_is_that_of_its_even_and_odd_rows(kind):
    stack = kind(problem("add-5"), MEMBERS[:2], 8)
    for _ in range(20):
        stack.train_step()
    found = dict(zip(SERIES, Readings(stack).measure()[1].tolist(), strict=True))
    weights = {str(i): w.detach()[1].clone() for i, w in enumerate(stack.weights)}
    halves = []
    for which in (0, 1):
        x, y = stack.x_train[:, :PROBE][:, which::2], stack.y_train[:, :PROBE][:, which::2]

        def loss(given, x=x, y=y):
            own = stack.weights
            stack.weights = [torch.stack([w.detach()[0], given[str(i)]]) for i, w in enumerate(own)]
            try:
                return stack.losses(x, y, torch.full(y.shape, 1.0 / y.shape[1]))[1]
            finally:
                stack.weights = own

        halves.append(Hessian(loss, weights))
    assert found["commutator/defect"] == pytest.approx(commutator_defect(*halves).item(), rel=1e-3)


def test_modes_are_those_of_the_quantiles_of_the_labels():
    stack = Stack(TASK, MEMBERS[:2], 16)
    readings, quantiles = Readings(stack), []
    at = torch.linspace(0, 1, QUANTILES)
    for _ in range(WINDOW + 2):
        for _ in range(4):
            stack.train_step()
        values = readings.measure()
        with torch.no_grad():
            log_p = stack.logits(stack.hidden(stack.x_train[:, :PROBE])).log_softmax(-1)
        chosen = log_p[1].gather(1, stack.y_train[1, :PROBE, None])
        quantiles.append(torch.quantile(chosen.squeeze(1), at))
    wanted = dynamic_mode_residual(torch.stack(quantiles[-WINDOW:]))
    # In float32 a squared singular value of the Gram matrix keeps about three digits of what is near rounding.
    assert values[1, SERIES.index("modes/residual")].item() == pytest.approx(wanted.item(), rel=1e-2, abs=1e-3)


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


def test_a_latin_verb_takes_the_ending_of_its_conjugation_in_each_form():
    """*Laudat*, *monebimus*, *regent* and *audiebam*: present, future, future, imperfect."""
    task = problem("latin")
    stems = [stem for some in VERBS for stem in some.split()]
    endings = list(dict.fromkeys(ending for some in ENDINGS for ending in some.replace(",", "").split()))
    assert len(stems) == len(set(stems)) == 48
    table = task.labels.view(48, 18)
    for verb, form, ending in (("laud", 2, "at"), ("mon", 15, "ebimus"), ("reg", 17, "ent"), ("aud", 6, "iebam")):
        assert endings[table[stems.index(verb), form]] == ending
    at = 18 * stems.index("reg") + 17
    assert task.inputs[at].nonzero().flatten().tolist() == [stems.index("reg"), 48 + 17]
    assert len(task.labels) == 864
    assert task.classes == len(endings) == 56
    # *Monent* and *regent*: one ending of two conjugations, so that the form alone does not tell the verb's class.
    assert table[stems.index("mon"), 5] == table[stems.index("reg"), 17]


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


@pytest.fixture
def bank(monkeypatch):
    """The script."""
    import importlib
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "bank", raising=False)
    yield importlib.import_module("bank")
    monkeypatch.delitem(sys.modules, "bank")


def test_the_first_bank_is_trained_unless_the_second_is_asked_for(bank, monkeypatch, tmp_path):
    import sys

    asked = []
    monkeypatch.setattr(bank, "generate", lambda names, out: asked.append(tuple(names)))
    monkeypatch.setattr(bank, "table", lambda out, second: "")
    monkeypatch.setattr(bank, "single_thread", lambda: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: True)
    for more in ([], ["--second"], ["--blocks", "s4"]):
        monkeypatch.setattr(sys, "argv", ["bank.py", "--table", str(tmp_path / "bank.md"), *more])
        bank.main()
    assert asked == [FIRST_BANK, SECOND_BANK, ("s4",)]
    assert not set(FIRST_BANK) & set(SECOND_BANK)


def test_each_bank_has_its_own_part_of_the_page_and_leaves_the_other(bank, tmp_path):
    whole = Block(task="add-7", members=MEMBERS[:2], hidden=8, steps=30)
    write_stack(tmp_path / "a.npz", whole.members, whole, lambda _: None)
    write_stack(tmp_path / "b.npz", whole.members, replace(whole, net="deep"), lambda _: None)
    first, second = bank.table(tmp_path), bank.table(tmp_path, second=True)
    assert [line.split("|")[1:4] for line in second.splitlines() if "| 2 |" in line] == [
        [" perceptron ", " add-7 ", " 2 "],
        [" perceptron ", " all ", " 2 "],
        [" deep ", " add-7 ", " 2 "],
        [" deep ", " all ", " 2 "],
    ]
    page = bank.joined(bank.joined("", second, second=True), first, second=False)
    assert page == bank.joined(first, second, second=True)
    assert page.startswith("# The bank of runs\n")
    assert page.count("## The second bank\n") == 1
    assert bank.joined(page, first, second=False) == bank.joined(page, second, second=True) == page


def test_the_second_bank_has_operations_groups_parity_and_text_for_other_nets():
    kinds = {(block(name).net, block(name).task.partition("-")[0]) for name in SECOND_BANK}
    for net in ("deep", "attention"):
        assert {(net, task) for task in ("add", "sub", "mul", "div", "latin", "parity")} <= kinds
    assert {("deep", "s4"), ("deep", "s5"), ("perceptron", "latin")} <= kinds


@pytest.mark.parametrize("name", SECOND_BANK)
def test_every_block_of_the_second_bank_has_runs_that_cannot_grok(name):
    members = block(name).members
    assert sum(member.label_noise == 1.0 for member in members) >= 2
    assert any(member.weight_decay == 0.0 for member in members)
    assert block(name).net in name
