"""Readings: which activations are read, as which rows, at what cost, and that nobody notices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import surgecollapse
from surgecollapse.observe.activations import ActivationReader, find_sites, sample_rows
from surgecollapse.observe.observer import Observer
from surgecollapse.observe.probe import Probe


@pytest.fixture(autouse=True)
def _seeded():
    """Weights and inputs in which no two rows are alike: two samples that no unit answers would be equal rows."""
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrices(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.ndim >= 2]


def read(model: nn.Module, *inputs, sites=None, rows=128, prunable=None, **options):
    """Readings by layer of one training pass."""
    found = find_sites(model, matrices(model) if prunable is None else prunable, sites)
    reader = ActivationReader(model, found, rows=rows, follow=sites is None, **options)
    reader.arm(generator())
    model.train()
    model(*inputs)
    layers = reader.layers([float(t) for t in reader.reduce()])
    reader.disarm()
    return {layer.layer: layer for layer in layers}


def taken(model: nn.Module, *inputs, rows=128) -> dict[str, torch.Tensor]:
    """The very rows that one training pass gives to the reduction."""
    reader = ActivationReader(model, find_sites(model, matrices(model)), rows=rows)
    reader.arm(generator())
    model(*inputs)
    return dict(reader._samples)


def rows_of(sample: torch.Tensor, everything: torch.Tensor) -> list[int]:
    """Indices in ``everything`` (all rows) of the rows of ``sample``."""
    equal = (sample[:, None] == everything[None]).all(-1)
    assert (equal.sum(1) == 1).all()
    return equal.int().argmax(1).tolist()


# ---- rows ---------------------------------------------------------------------------------------------------------


def test_a_batch_gives_each_sample_at_most_once():
    x = torch.arange(20.0).reshape(10, 2)
    for rows in (1, 4, 10, 128):
        sample = sample_rows(x, rows=rows, channels_first=False, batch=10, generator=generator())
        assert len(set(rows_of(sample, x))) == len(sample) == min(rows, 10)


@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 2)])
def test_images_give_one_random_position_each_with_channels_as_units(space):
    x = torch.arange(32.0 * 7 * math.prod(space)).reshape(32, 7, *space)
    sample = sample_rows(x, rows=128, channels_first=True, batch=32, generator=generator())
    assert sample.shape == (32, 7)
    positions = x.flatten(2).movedim(1, -1).flatten(0, 1)
    found = rows_of(sample, positions)
    assert sorted(i // math.prod(space) for i in found) == list(range(32))
    assert len({i % math.prod(space) for i in found}) > 1  # not always the same position


@pytest.mark.parametrize("layout", ["NTD", "TND", "NT,D", "N,H,W,D"])
def test_sequences_give_one_random_position_each_in_every_layout(layout):
    x = torch.arange(33.0 * 8 * 3).reshape(33, 8, 3)  # (N, T, D)
    given = {
        "NTD": x,
        "TND": x.transpose(0, 1).contiguous(),
        "NT,D": x.reshape(264, 3),
        "N,H,W,D": x.reshape(33, 2, 4, 3),
    }[layout]
    sample = sample_rows(given, rows=128, channels_first=False, batch=33, generator=generator())
    assert sample.shape == (33, 3)
    found = rows_of(sample, x.reshape(264, 3))
    assert sorted(i // 8 for i in found) == list(range(33))
    assert len({i % 8 for i in found}) > 1


def test_one_row_no_position_and_bare_vectors_are_sampled_without_error():
    options = {"rows": 4, "channels_first": False, "batch": None, "generator": generator()}
    assert sample_rows(torch.ones(1, 5), **options).shape == (1, 5)
    assert sample_rows(torch.ones(3, 0, 5), **options).shape == (0, 5)
    assert sample_rows(torch.ones(9), **options).shape == (1, 9)
    assert sample_rows(torch.ones(()), **options).shape == (1, 1)


@pytest.mark.parametrize(
    ("samples", "rows", "each"), [(1, 128, 32), (1, 5, 5), (3, 128, 11), (31, 128, 2), (32, 128, 1)]
)
@pytest.mark.parametrize("channels_first", [True, False])
def test_of_few_samples_several_different_positions_are_drawn(samples, rows, each, channels_first):
    x = torch.arange(samples * 40 * 3.0).reshape(samples, 40, 3)
    given = x.transpose(1, 2).contiguous() if channels_first else x
    sample = sample_rows(given, rows=rows, channels_first=channels_first, batch=samples, generator=generator())
    found = rows_of(sample, x.reshape(-1, 3))
    assert len(set(found)) == samples * each
    assert sorted(i // 40 for i in found) == sorted(list(range(samples)) * each)


def test_samples_are_copies():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Identity()), torch.randn(8, 3)
    reader = ActivationReader(model, find_sites(model, ["0.weight"]))
    reader.arm(generator())
    out = model(x)
    (sample,) = reader._samples.values()
    before = sample.clone()
    with torch.no_grad():
        out.zero_()
    assert torch.equal(sample, before)
    assert not sample.requires_grad


# ---- sites --------------------------------------------------------------------------------------------------------


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 6), nn.Linear(6, 6), nn.ReLU()

    def forward(self, x):
        return torch.relu(self.b(self.act(self.a(x))))


def test_activation_modules_are_read_and_functional_ones_before_they_act():
    model, x = Functional(), torch.randn(16, 4)
    samples = taken(model, x)
    hidden = torch.relu(model.a(x))
    rows_of(samples["a"], hidden)
    rows_of(samples["b"], model.b(hidden))
    assert (samples["b"] < 0).any()


class Reused(nn.Module):
    """One activation module after every layer."""

    def __init__(self):
        super().__init__()
        self.layers, self.act = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Tanh()

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return x


def test_an_activation_module_used_again_belongs_to_the_layer_before_each_time():
    model, x = Reused(), torch.randn(8, 4)
    samples = taken(model, x)
    for i in range(3):
        x = torch.tanh(model.layers[i](x))
        rows_of(samples[f"layers.{i}"], x)


def test_a_norm_between_layer_and_activation_is_passed_over():
    model, x = (
        nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)),
        torch.randn(32, 1, 8, 8),
    )
    (sample,) = taken(model, x).values()
    assert sample.shape == (32, 5)
    assert (sample >= 0).all()
    with torch.no_grad():
        everything = model[2](model[1](model[0](x))).flatten(2).movedim(1, -1).flatten(0, 1)
    assert all((everything == row).all(1).any() for row in sample)


class Attends(nn.Module):
    """Self-attention in either layout, of batch-first inputs or of inputs with the sequence first."""

    def __init__(self, batch_first: bool, batch_first_input: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
        self.swap = batch_first != batch_first_input
        self.after = nn.Linear(4, 4)

    def forward(self, x):
        x = x.transpose(0, 1) if self.swap else x
        return self.after(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batch_first_input", [True, False])
def test_attention_is_read_at_its_output_with_one_row_per_sequence(batch_first, batch_first_input):
    model, x = Attends(batch_first, batch_first_input), torch.randn(34, 6, 4)  # 34 sequences of 6
    samples = taken(model, x if batch_first_input else x.transpose(0, 1))
    assert sorted(samples) == ["after", "attention"]
    flat = model.attention(x, x, x)[0] if batch_first else model.attention(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1)
    sample, flat = samples["attention"], flat.reshape(204, 4)
    nearest = torch.cdist(sample, flat).argmin(1)
    assert torch.allclose(sample, flat[nearest], atol=1e-5)
    assert sorted(i // 6 for i in nearest.tolist()) == list(range(34))
    assert len(samples["after"]) == 34


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_are_read_at_their_output_sequence(batch_first):
    model, x = nn.LSTM(3, 5, batch_first=batch_first), torch.randn(37, 9, 3)  # 37 sequences of 9
    (sample,) = taken(model, x if batch_first else x.transpose(0, 1)).values()
    assert sample.shape == (37, 5)
    flat = model(x if batch_first else x.transpose(0, 1))[0]
    flat = (flat if batch_first else flat.transpose(0, 1)).reshape(333, 5)
    assert sorted(i // 9 for i in torch.cdist(sample, flat).argmin(1).tolist()) == list(range(37))


def test_a_parametrized_layer_is_its_own_site():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU())
    assert list(find_sites(model, matrices(model))) == ["0"]
    assert read(model, torch.randn(8, 4))["0"].units == 6


def test_sites_can_be_chosen_by_pattern_and_are_then_read_as_they_are():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    assert list(read(model, torch.randn(8, 4), sites=["1", "2*"])) == ["1", "2"]
    with pytest.raises(ValueError, match=r"'9' matches no module; the model has 0, 1, 2"):
        find_sites(model, [], ["9"])


def test_sites_are_read_in_the_models_order_whatever_the_forward_order():
    class Backwards(Functional):
        def forward(self, x):
            return self.b(torch.ones(len(x), 6)) + self.act(self.a(x))

    assert list(read(Backwards(), torch.randn(8, 4))) == ["a", "b"]


# ---- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 4, 16, 32])
def test_entropy_of_rank_k_activations_is_ln_k_over_ln_d(rank):
    x = torch.randn(512, 32, generator=generator(1))
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag((torch.arange(32) < rank).float()))
    (layer,) = read(model, x).values()
    assert layer.entropy == pytest.approx(math.log(rank) / math.log(32), abs=0.02)
    assert (layer.rows, layer.units) == (128, 32)
    assert layer.dead == pytest.approx(1 - rank / 32)
    assert layer.energy == pytest.approx(rank / 32, rel=0.2)


def test_constant_activations_have_no_entropy_and_are_dead():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(2.0)
    (layer,) = read(model, torch.randn(16, 4)).values()
    assert (layer.entropy, layer.on_off, layer.dead, layer.energy) == (0.0, 0.0, 1.0, 4.0)


def test_a_single_unit_has_no_entropy():
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh())
    x = torch.randn(8, 4)
    (layer,) = read(model, torch.cat([x, -x])).values()  # half of the units' answers are positive
    assert layer.entropy is None
    assert 0 < layer.on_off <= 1


def test_a_single_row_is_read_without_entropy():
    (layer,) = read(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), torch.randn(1, 4)).values()
    assert layer.entropy is None
    assert (layer.rows, layer.dead, layer.on_off) == (1, 1.0, 0.0)


def test_activations_that_are_not_finite_are_left_out():
    assert not read(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), torch.full((8, 4), math.nan))


def test_entropy_forms_are_found_by_name_and_unknown_ones_listed():
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(64, 4)
    values = {form: read(model, x, entropy=form)["0"].entropy for form in ("renyi2", "spectral", "unit_energy")}
    assert len(set(values.values())) == 3
    assert read(model, x, entropy=lambda a: a.new_tensor(0.25))["0"].entropy == 0.25
    with pytest.raises(ValueError, match=r"unknown entropy form 'renyi'.*renyi2.*or a function"):
        read(model, x, entropy="renyi")


# ---- who is read, and at what cost ----------------------------------------------------------------------------------


class Loop:
    """A loop with dropout and batch norm that can evaluate, sit in autocast, and be watched."""

    def __init__(self, every=None, seed=0, **options):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Sequential(
                nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.GELU(),
                nn.Linear(16, 3),
            )  # fmt: skip
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.x, self.y = torch.randn(40, 8, generator=generator(1)), torch.randint(3, (40,), generator=generator(2))
        self.controller = None
        if every is not None:
            options = {"sparsity": 0.5, "policy": "no_op", **options}
            self.controller = surgecollapse.attach(
                self.model, self.optimizer, readings=surgecollapse.Readings(every=every), **options
            )

    def backward(self):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()

    def train(self, steps, evaluate=False):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for _ in range(steps):
                if evaluate:
                    self.evaluate()
                self.backward()
                if evaluate:
                    self.evaluate()
                self.optimizer.step()
        return self

    def evaluate(self):
        self.model.eval()
        with torch.no_grad():
            self.model(self.x[:7] * 5)
        self.model.train()
        with torch.no_grad():
            torch.nn.Sequential(*self.model[4:])(torch.zeros(2, 16))


def same(a: Loop, b: Loop) -> bool:
    states = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in states)


@pytest.mark.parametrize("total", [1, 12])
def test_reading_every_step_is_bitwise_plain_training(total):
    watched = Loop(every=1).train(total)
    assert same(watched, Loop().train(total))
    assert len(watched.controller.readings) == total
    # In the first step the output layer is not known yet: it is read by a pass of the probe.
    assert [r.source for r in watched.controller.readings] == ["probe", *["batch"] * (total - 1)]
    assert all(len(r.layers) == 2 for r in watched.controller.readings)


def test_whoever_evaluates_in_between_changes_no_reading():
    plain, evaluated = Loop(every=1).train(6), Loop(every=1).train(6, evaluate=True)
    assert list(plain.controller.readings) == list(evaluated.controller.readings)


class Again(nn.Module):
    """Two blocks, computed again in the backward pass or not."""

    def __init__(self, again, reentrant):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))
        self.again, self.reentrant = again, reentrant

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant) if self.again else block(x)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inner", [False, True], ids=["whole", "a part called by itself"])
def test_gradient_checkpointing_changes_no_reading(reentrant, inner):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model, draws = Again(again, reentrant), generator()
        reader = ActivationReader(model, find_sites(model, matrices(model)), rows=8)
        reader.arm(draws)
        for part in torch.randn(2, 40, 6):  # two micro-batches: the last one counts
            x = part.requires_grad_()
            (Again.forward(model, x) if inner else model(x)).sum().backward()
        found.append(reader.samples)
        reader.disarm()
    assert set(found[0]) == {"blocks.0.0", "blocks.1.0"}
    if not (inner and reentrant):  # the first pass of a reentrant part has no gradient: the second is read, in reverse
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert set(found[1]) == set(found[0])


def test_a_reading_costs_one_host_sync_and_other_steps_none(monkeypatch):
    loop = Loop(every=3).train(4)
    calls = []
    for name in ("tolist", "item", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu", "nonzero"):
        original = getattr(torch.Tensor, name)

        def count(self, *args, name=name, original=original, **kwargs):
            calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, count)
    counted = []
    for _ in range(3):
        loop.backward()
        calls.clear()
        loop.controller.before_step()  # the optimizer itself reads its step count: only the hooks are counted
        loop.controller.after_step()
        counted.append(list(calls))
    assert counted == [[], ["tolist"], []]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradient_norms_are_right_in_every_precision(dtype):
    observer = Observer(nn.Linear(1, 1), ActivationReader(nn.Linear(1, 1), {}), Probe(), generator())
    observer.see_gradients([torch.full((3, 3), 2.0, dtype=dtype), torch.full((7,), 2.0, dtype=torch.float32)])
    observer.see_gradients([torch.zeros(0, dtype=dtype), torch.tensor([6.0 + 0j])])
    reading = observer.read(1, 0.0)
    assert reading.grad_norm == pytest.approx(10.0)
    assert (reading.finite, reading.source) == (True, "none")


def test_a_sparse_gradient_counts_its_repeated_rows_once_summed():
    observer = Observer(nn.Linear(1, 1), ActivationReader(nn.Linear(1, 1), {}), Probe(), generator())
    observer.see_gradients([torch.sparse_coo_tensor([[1, 1]], [[1.5], [2.5]], (4, 1), check_invariants=True)])
    assert observer.read(1, 0.0).grad_norm == pytest.approx(4.0)


def test_a_transformer_is_read_in_eval_mode_past_its_fused_path():
    """In eval mode nn.TransformerEncoderLayer would skip its submodules, hooks and all."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=True)
    x = torch.randn(35, 5, 8)
    reader = ActivationReader(model, find_sites(model, matrices(model)))
    observer = Observer(model, reader, Probe(x), generator())
    assert 0.0 < observer.measure("on_off") <= 1.0
    reading = observer.read(1, 0.0)
    assert reading.source == "probe"
    names = [layer.layer for layer in reading.layers]
    assert names == [f"layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "linear1", "linear2")]
    assert [layer.units for layer in reading.layers] == [8, 16, 8, 8, 16, 8]
    assert {layer.rows for layer in reading.layers} == {35}
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("inside", ["forward", "step"])
def test_autocast_loops_are_read_and_masked(inside):
    """With the step inside the region too, whose cache then holds weights from before the collapse."""
    loop = Loop(every=2, policy="acdc", total_steps=40, updates=surgecollapse.Updates(growth="random"))
    for _ in range(40):
        loop.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(loop.model(loop.x), loop.y)
            if inside == "step":
                loss.backward()
                loop.optimizer.step()
        if inside == "forward":
            loss.backward()
            loop.optimizer.step()
    readings = list(loop.controller.readings)
    assert len(readings) == 20
    assert all(r.finite and r.source == "batch" and r.entropy > 0 for r in readings)
    assert loop.controller.sparsity == pytest.approx(0.5, abs=2e-3)
    assert all(torch.isfinite(p).all() for p in loop.model.parameters())


def test_a_probe_measure_is_the_same_each_time_and_moves_nothing():
    loop = Loop(every=5).train(3)
    observer = loop.controller._components.observer
    state, random = {k: v.clone() for k, v in loop.model.state_dict().items()}, torch.get_rng_state()
    flags = [m.training for m in loop.model.modules()]
    values = {observer.measure("on_off") for _ in range(3)}
    assert len(values) == 1
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in loop.model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in loop.model.state_dict().items())


def test_a_measure_that_is_not_defined_is_no_hindrance():
    assert math.isinf(Observer(nn.ReLU(), ActivationReader(nn.ReLU(), {}), Probe(), generator()).measure("entropy"))


class _Answers(nn.Module):
    """Answers what it is told to, whatever it is asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, x):
        return self.answers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 4)])
def test_certainty_is_one_minus_the_normalized_entropy_of_the_predictions(shape, dtype):
    def prediction_confidence(answers):
        model = _Answers(answers)
        return Observer(model, ActivationReader(model, {}), Probe(torch.zeros(3, 2)), generator()).measure(
            "prediction_confidence"
        )

    even, sure = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    sure[..., 0] = 50.0
    assert prediction_confidence(even) == pytest.approx(0.0, abs=1e-6)
    assert prediction_confidence(sure) == pytest.approx(1.0, abs=1e-6)
    assert prediction_confidence({"labels": torch.ones(3, dtype=torch.long), "logits": sure}) == pytest.approx(
        1.0, abs=1e-6
    )
    two = torch.zeros(shape, dtype=dtype)
    two[..., :2] = 50.0  # two classes out of four: ln 2 / ln 4
    assert prediction_confidence(two) == pytest.approx(0.5, abs=1e-6)


def test_certainty_of_a_single_output_is_not_defined():
    model = _Answers(torch.ones(3, 1))
    assert (
        Observer(model, ActivationReader(model, {}), Probe(torch.ones(3, 2)), generator()).measure(
            "prediction_confidence"
        )
        < 0
    )
    assert Observer(model, ActivationReader(model, {}), Probe(), generator()).measure("prediction_confidence") < 0
