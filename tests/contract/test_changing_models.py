"""Models that change, or are trained in unusual ways, while a controller is attached."""

from __future__ import annotations

import copy
import io
import time

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse import Readings, Target, Updates

pytestmark = pytest.mark.filterwarnings("ignore:no attached optimizer steps")
X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def make_model(width: int = 32, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()


def attach(model, optimizer, **options):
    defaults = {"sparsity": 0.5, "total_steps": 200, "readings": Readings(every=5)}
    return surgecollapse.attach(model, optimizer, **{**defaults, **options})


class Growing:
    """A run whose middle layer starts to train at step 21, in one of two ways."""

    def __init__(self, how: str) -> None:
        self.how, self.model = how, make_model()
        self.middle = list(self.model[2].parameters())
        if how == "unfrozen":
            self.middle[0].requires_grad_(False)
        first = [p for p in self.model.parameters() if how == "unfrozen" or not any(p is q for q in self.middle)]
        self.optimizer = torch.optim.SGD(first, lr=0.1, momentum=0.9)

    def let_it_train(self) -> None:
        if self.how == "unfrozen":
            self.middle[0].requires_grad_(True)
        else:
            self.optimizer.add_param_group({"params": self.middle})


@pytest.mark.parametrize("how", ["unfrozen", "added"])
@pytest.mark.parametrize("at", [22, 47, 90])
def test_a_run_in_which_weights_join_is_resumed_bitwise(how, at):
    """Also from a checkpoint between the step at which they join the optimizer and the next reading."""
    whole = Growing(how)
    controller = attach(whole.model, whole.optimizer, updates=Updates(growth="random", regrow_init="noise"))
    train(whole.model, whole.optimizer, 21)
    whole.let_it_train()
    train(whole.model, whole.optimizer, at - 21)
    saved = [whole.model.state_dict(), whole.optimizer.state_dict(), controller.state_dict()]
    again = Growing(how)
    again.let_it_train()
    its_controller = attach(again.model, again.optimizer, updates=Updates(growth="random", regrow_init="noise"))
    again.model.load_state_dict(saved[0])
    again.optimizer.load_state_dict(torch.load(_through_a_file(saved[1]), weights_only=True))
    its_controller.load_state_dict(torch.load(_through_a_file(saved[2]), weights_only=True))
    for run in (whole, again):
        train(run.model, run.optimizer, 120 - at)
    joins = [event.step for event in controller.events if event.kind == "join"]
    assert joins == [25]
    assert controller.events == its_controller.events
    assert {layer.layer for layer in controller.readings[-1].layers} == {"0", "2"}
    assert controller.readings[-1] == its_controller.readings[-1]
    for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q)


def _through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_what_is_frozen_after_attaching_stays_masked_and_resumes():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer)
    train(model, optimizer, 30)
    model[2].weight.requires_grad_(False)
    train(model, optimizer, 10)
    state = controller.state_dict()
    controller.detach()
    again = attach(model, optimizer)
    again.load_state_dict(state)
    assert set(again.masks) == {"0.weight", "2.weight"}
    assert again.sparsity == controller.sparsity > 0


def test_weights_that_join_after_the_mask_is_final_stay_dense_and_the_sparsity_exact():
    run = Growing("added")
    controller = attach(run.model, run.optimizer, total_steps=40)
    train(run.model, run.optimizer, 38)
    assert controller.frozen
    run.let_it_train()
    train(run.model, run.optimizer, 10)
    controller.finalize()
    assert controller.sparsity == 0.5
    assert list(controller.masks) == ["0.weight"]
    assert "no new weights" in controller.events[-1].reason


def test_the_first_optimizer_may_step_often_before_the_last_one_does():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critic, self.generator = make_model(seed=0), make_model(seed=1)

        def forward(self, x, which):
            return getattr(self, which)(x)

    model = Pair()
    optimizers = [torch.optim.SGD(getattr(model, part).parameters(), lr=0.1) for part in ("critic", "generator")]
    controller = attach(model, optimizers, total_steps=100)
    for _ in range(12):
        for part, optimizer, times in zip(("critic", "generator"), optimizers, (5, 1), strict=True):
            for _ in range(times):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(X, part), Y).backward()
                optimizer.step()
    assert controller.step == 12
    assert controller.sparsity > 0


def test_a_very_long_cadence_costs_nothing():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    began = time.perf_counter()
    controller = attach(model, optimizer, policy="no_op", total_steps=None, readings=Readings(every=10**12))
    train(model, optimizer, 3)
    assert time.perf_counter() - began < 5
    assert not controller.readings


def test_depth_is_bounded_by_the_minimum_density():
    """The deepest collapse at this target, 99.65%, would leave less than .5% of the weights."""
    model = make_model(width=128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    policy = surgecollapse.EntropyCycles(floor=0.0)
    controller = attach(model, optimizer, sparsity=0.993, policy=policy)
    train(model, optimizer, 200)
    depths = [event.details["depth"] for event in controller.events if event.kind == "collapse"]
    assert max(depths) > 0.9945
    assert controller.frozen
    assert sum(int(mask.sum()) for mask in controller.masks.values()) == round(0.007 * 128 * 136)


def test_a_target_under_the_minimum_density_is_refused_at_once():
    model = make_model(width=128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"sparsity 0\.999 leaves less than min_density=0\.005"):
        attach(model, optimizer, sparsity=0.999, total_steps=1_000)
    narrow = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(4)], nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"sparsity 0\.9 leaves 2 of 16 weights.*needs 4: 0\.0\.weight \(1\)"):
        attach(
            narrow,
            torch.optim.SGD(narrow.parameters(), lr=0.1),
            sparsity=0.9,
            total_steps=1_000,
            readings=Readings(probe=torch.ones(4, 2)),
        )


def test_detaching_lets_go_of_a_model_whose_first_layer_was_replaced():
    model = make_model()
    controller = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    model[0] = nn.Linear(8, 32)
    assert controller.attached
    controller.detach()
    assert attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).attached


def test_a_loss_noted_before_the_first_step_is_not_lost():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, policy="no_op", readings=Readings(every=1))
    loss = nn.functional.cross_entropy(model(X), Y)
    loss.backward()
    controller.note(loss=loss, targets=Y)
    optimizer.step()
    assert controller.readings[0].loss == pytest.approx(loss.item())
    assert controller.readings[0].target_entropy is not None


def test_a_part_of_the_model_that_is_evaluated_by_itself_is_not_read():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_model()

        def forward(self, x):
            return self.net(x)

    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, policy="no_op", readings=Readings(every=1, probe=X))
    for _ in range(2):
        nn.functional.cross_entropy(model.net(X), Y).backward()
        model.eval()
        model.net(X[:5])
        model.train()
        with torch.no_grad():
            model.net(X[:6])
        optimizer.step()
    assert [(reading.source, reading.layers[0].rows) for reading in controller.readings] == [("batch", 64)] * 2


def test_gradients_by_vmap_are_no_obstacle_to_a_reading():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, policy="no_op", readings=Readings(every=1, probe=X))

    def loss(parameters, x, y):
        return nn.functional.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    held = {name: p.detach() for name, p in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(held, X, Y)
    for name, p in model.named_parameters():
        p.grad = each[name].mean(0)
    optimizer.step()
    assert controller.readings[0].source == "probe"
    assert [layer.layer for layer in controller.readings[0].layers] == ["0", "2"]


def test_a_net_that_routes_its_inputs_may_run_other_layers_after_a_collapse():
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chooser = nn.Linear(8, 2, bias=False)
            self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU()) for _ in range(2))
            self.head = nn.Linear(16, 2)
            with torch.no_grad():  # the smallest weights of all choose, and are closed
                self.chooser.weight.copy_(torch.tensor([[0.0], [1e-6]]).expand(2, 8))

        def forward(self, x):
            choice = int(self.chooser(x.abs()).sum(0)[1] > 0)
            if self.training:
                return self.head(sum(expert(x) for expert in self.branches))
            return self.head(self.branches[choice](x))

    model = Routed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, total_steps=40, policy="acdc", sparsity=Target(0.5, min_density=0.0))
    train(model, optimizer, 40)
    collapse = next(event for event in controller.events if event.kind == "collapse")
    assert set(collapse.details["activation_energy"]) == {"chooser"}
    assert controller.frozen


def test_injected_energy_of_a_double_model_is_within_its_budget():
    model = make_model().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    controller = attach(model, optimizer, updates=Updates(regrow_init="noise", noise_energy_budget=0.1))
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X.double()), Y).backward()
        optimizer.step()
    surges = [event for event in controller.events if event.kind == "surge"]
    assert surges
    assert all(0 < event.energy_injected <= 0.1 * event.energy_before for event in surges)


def test_the_last_decision_survives_a_resume_and_a_damaged_state_is_named():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer)
    train(model, optimizer, 30)
    state, decision = controller.state_dict(), controller.decision
    controller.detach()
    again = attach(model, optimizer)
    again.load_state_dict(state)
    assert again.decision == decision is not None
    with pytest.raises(ValueError, match="lacks events: the checkpoint is damaged"):
        again.load_state_dict({key: value for key, value in state.items() if key != "events"})


def test_a_weight_without_a_gradient_has_no_taylor_saliency():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.unused = make_model(), nn.Linear(16, 16)

        def forward(self, x):
            return self.net(x)

    model = Unused()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    controller = attach(model, optimizer, updates=Updates(saliency="taylor"))
    train(model, optimizer, 200)
    assert controller.frozen
    assert int(controller.masks["unused.weight"].sum()) == 2  # its minimum density alone: .5% of 256, rounded up


def test_packed_sequences_are_a_probe_too():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, packed):
            return self.head(self.lstm(packed)[1][0][-1])

    model = Recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    controller = attach(model, optimizer, total_steps=40, policy="acdc")
    sequences = X.repeat(2, 1).unsqueeze(1).expand(-1, 5, -1)
    lengths = torch.arange(len(sequences)) % 5 + 1
    packed = nn.utils.rnn.pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(packed), Y.repeat(2)).backward()
        optimizer.step()
    assert controller.frozen
    assert list(controller.masks) == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]


class Joining(nn.Module):
    """Two layers, and sixty of nine weights each, whose least density would take more than the target leaves."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 64), nn.Linear(64, 3), nn.Linear(3, 2)
        self.small = nn.ModuleList(nn.Linear(3, 3) for _ in range(60))

    def forward(self, x):
        h = torch.relu(self.b(torch.relu(self.a(x))))
        for layer in self.small:
            h = h + 0.01 * torch.relu(layer(h))
        return self.head(h)


def joining():
    torch.manual_seed(0)
    model = Joining()
    first = [p for name, p in model.named_parameters() if not name.startswith("small")]
    optimizer = torch.optim.SGD(first, lr=0.01)
    target = Target(0.97, exclude="head.weight", allocation="layer")
    controller = attach(model, optimizer, sparsity=target, total_steps=60, policy="gmp")
    return model, optimizer, controller


def test_weights_with_which_the_target_cannot_be_reached_stay_dense_and_are_named_once():
    model, optimizer, controller = joining()
    train(model, optimizer, 12)
    optimizer.add_param_group({"params": list(model.small.parameters())})
    with pytest.warns(UserWarning, match=r"small\.0\.weight …\) stay dense, .* Lower min_density or the sparsity"):
        train(model, optimizer, 8)
    saved = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, controller)]
    train(model, optimizer, 40)
    controller.finalize()
    size = 8 * 64 + 64 * 3
    assert sorted(controller.masks) == ["a.weight", "b.weight"]
    assert controller.open_weights() == (round(0.03 * size), size)
    (row,) = (row for row in controller.explain() if row.name == "small.7.weight")
    assert (row.prunable, row.reason) == (False, "joined too late: with it the target cannot be reached")
    again, optimizer, controller = joining()
    optimizer.add_param_group({"params": list(again.small.parameters())})
    for part, state in zip((again, optimizer, controller), saved, strict=True):
        part.load_state_dict(state)
    train(again, optimizer, 40)
    controller.finalize()
    assert all(map(torch.equal, model.parameters(), again.parameters()))
