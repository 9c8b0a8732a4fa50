"""The callback for the Trainer of Lightning, against the real package."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pl = pytest.importorskip("lightning.pytorch")

from surgecollapse import Readings, RunStore  # noqa: E402
from surgecollapse.commands import command_from  # noqa: E402
from surgecollapse.dashboard.runs import Runs  # noqa: E402
from surgecollapse.integrations.lightning import SurgeCollapse  # noqa: E402
from surgecollapse.record import CommandQueue  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


class Automatic(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 5e-3)


class Forward(Automatic):
    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Manual(Automatic):
    """Two optimizers that the training step calls itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, _):
        first, second = self.optimizers()
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        first.zero_grad()
        second.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net[0].parameters(), 5e-3), torch.optim.SGD(self.net[2:].parameters(), 0.1)


def data():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.randint(3, (64,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)


def fit(folder, module, callback=None, ckpt=None, epochs=10, more=(), **options):
    callback = callback or SurgeCollapse(sparsity=0.8, readings=Readings(every=5))
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback, *more], **options,
    )  # fmt: skip
    trainer.fit(module, data(), ckpt_path=ckpt)
    return trainer, callback


def zeros(module):
    weights = [module.net[0].weight, module.net[2].weight]
    return sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)


@pytest.mark.conformance("heads right", place="Lightning")
@pytest.mark.conformance("target reached", place="Lightning")
@pytest.mark.conformance("entropy read", place="Lightning")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Automatic, {}),
        (Forward, {}),
        (Manual, {}),
        (Automatic, {"accumulate_grad_batches": 2}),
        (Automatic, {"gradient_clip_val": 0.1}),
        (Automatic, {"precision": "bf16-mixed"}),
    ],
    ids=["automatic", "forward", "manual", "accumulation", "clipping", "bf16-mixed"],
)
def test_the_target_is_met_and_the_head_is_left(tmp_path, kind, options):
    options = {**options} if kind is not Manual else {"callback": SurgeCollapse(0.8, total_steps=80), **options}
    module = kind()
    _, callback = fit(tmp_path, module, enable_checkpointing=False, **options)
    assert zeros(module) == pytest.approx(0.8, abs=1e-3)
    assert bool((module.net[4].weight != 0).all())
    assert callback.controller.frozen
    assert not callback.controller.attached
    assert any(reading.entropy is not None for reading in callback.controller.readings)


class Held(pl.Callback):
    """Looks at every closed weight after every batch."""

    def __init__(self, pruning):
        self.pruning, self.revived, self.looks = pruning, [], 0

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.looks += 1
        weights = dict(pl_module.net.named_parameters())
        masks = self.pruning.controller.masks
        self.revived += [trainer.global_step for name, mask in masks.items() if weights[name][~mask].any()]


@pytest.mark.conformance("masks held", place="Lightning")
@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_masks_hold_after_every_batch(tmp_path, kind):
    pruning = SurgeCollapse(0.8, total_steps=80, readings=Readings(every=5))
    held = Held(pruning)
    fit(tmp_path, kind(), pruning, more=[held], enable_checkpointing=False)
    assert held.looks == 80
    assert held.revived == []


AVERAGES = {
    "SWA": lambda: pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=2, annealing_epochs=2),
    "EMA": lambda: pl.callbacks.EMAWeightAveraging(decay=0.99),
}


@pytest.mark.conformance("heads right", place="Lightning, averaged weights")
@pytest.mark.conformance("masks held", place="Lightning, averaged weights")
@pytest.mark.conformance("target reached", place="Lightning, averaged weights")
@pytest.mark.conformance("entropy read", place="Lightning, averaged weights")
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("ours_first", [True, False])
def test_averaged_weights_obey_the_final_mask(tmp_path, name, ours_first):
    module, pruning, average = Automatic(), SurgeCollapse(0.8, readings=Readings(every=5)), AVERAGES[name]()
    held = Held(pruning)
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=10, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        callbacks=[pruning, average, held] if ours_first else [average, pruning, held],
    )  # fmt: skip
    trainer.fit(module, data())
    weights = dict(module.net.named_parameters())
    assert pruning.controller.frozen
    assert (held.looks, held.revived) == (80, [])
    assert set(pruning.controller.masks) == {"0.weight", "2.weight"}
    assert all(reading.entropy is not None for reading in pruning.controller.readings)
    for key, mask in pruning.controller.masks.items():
        assert not weights[key][~mask].any(), key
    assert zeros(module) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.conformance("resume bitwise", place="Lightning, averaged weights")
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("ours_first", [True, False])
def test_a_run_with_averaged_weights_resumes_bitwise(tmp_path, name, ours_first):
    def run(*more, **options):
        module, ours = Automatic(), [SurgeCollapse(0.8, readings=Readings(every=5))]
        average = [AVERAGES[name]()]
        trainer = pl.Trainer(
            default_root_dir=tmp_path, max_epochs=10, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[*(ours + average if ours_first else average + ours), *more],
            enable_checkpointing=bool(more),
        )  # fmt: skip
        trainer.fit(module, data(), **options)
        return [*module.parameters(), *ours[0].controller.masks.values()], ours[0].controller

    whole, _ = run(pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1))
    again, controller = run(ckpt_path=str(tmp_path / "epoch=4.ckpt"))
    assert controller.step == 80
    assert all(map(torch.equal, whole, again))


@pytest.mark.conformance("resume bitwise", place="Lightning")
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
    every = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    whole = Automatic()
    fit(tmp_path, whole, more=[every])
    again = Automatic()
    _, callback = fit(tmp_path, again, ckpt=str(tmp_path / "epoch=4.ckpt"), enable_checkpointing=False)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert callback.controller.step == 80


def test_our_numbers_are_logged(tmp_path):
    trainer, _ = fit(tmp_path, Automatic(), enable_checkpointing=False)
    assert trainer.callback_metrics["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert 0.0 <= trainer.callback_metrics["activation_entropy"] <= 1.0


class Losses(pl.Callback):
    """What the training step returned, over the number of batches a step, batch by batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.seen.append(float(outputs["loss"]))


@pytest.mark.parametrize("batches", [1, 2], ids=["each batch", "accumulation"])
def test_each_reading_has_the_loss_of_its_step(tmp_path, batches):
    losses, options = Losses(), {"accumulate_grad_batches": batches, "enable_checkpointing": False}
    _, callback = fit(tmp_path, Automatic(), more=[losses], **options)
    readings = callback.controller.readings
    wanted = [batches * losses.seen[batches * reading.step - 1] for reading in readings]
    assert [reading.loss for reading in readings] == pytest.approx(wanted, rel=1e-6)


def test_the_loss_is_free_of_the_scale_of_half_precision():
    noted, callback = [], SurgeCollapse(0.8)
    callback.controller = SimpleNamespace(note=noted.append)
    plugin = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    trainer = SimpleNamespace(precision_plugin=plugin, accumulate_grad_batches=2)
    callback.on_before_backward(trainer, Automatic(), plugin.scaler.scale(torch.tensor(1.5)))
    assert noted == [torch.tensor(3.0)]


class Frozen(Automatic):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def test_it_warns_of_a_run_that_learns_nothing(tmp_path):
    with pytest.warns(UserWarning, match="training has learned nothing"):
        fit(tmp_path, Frozen(), enable_checkpointing=False)


def test_a_run_without_an_end_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the trainer has no end"):
        fit(tmp_path, Automatic(), epochs=-1, enable_checkpointing=False)


class Person(pl.Callback):
    """Sends commands to the run's file after given batches, as the page and the terminal do."""

    def __init__(self, store, said):
        self.queue, self.said, self.listed = CommandQueue(store.path), said, []
        self.folder = store.path.parent.parent

    def on_train_batch_end(self, trainer, *_):
        for kind, body in self.said.get(trainer.global_step, ()):
            self.queue.put(command_from(kind, body), source="page")
        if trainer.global_step == 8:
            self.listed = Runs(self.folder).listing()["runs"]
        time.sleep(0.12)  # the queue is looked at ten times a second


def test_a_run_of_the_trainer_is_on_the_page_and_takes_commands(tmp_path):
    (tmp_path / "runs" / "net").mkdir(parents=True)
    said = {
        2: [("set-optimizer", {"option": "betas", "value": [0.8, 0.95]}), ("collapse", {"fraction": 0.2})],
        4: [("freeze-layers", {"layers": ["0"]}), ("checkpoint", {}), ("evaluate", {})],
        10: [("stop", {})],
    }
    with RunStore(tmp_path / "runs" / "net" / "run.db", mode="w") as store:
        pruning = SurgeCollapse(0.8, readings=Readings(every=5), recorders=[store], commands=store.path)
        person, module = Person(store, said), Automatic()
        trainer, _ = fit(tmp_path / "out", module, pruning, more=[person], enable_checkpointing=False)
        asked = {one.kind: one for one in person.queue.all()}
    assert [(row["name"], row["status"]) for row in person.listed] == [("net", "live")]
    assert {kind: one.status for kind, one in asked.items()} == {
        "set-optimizer": "applied", "collapse": "applied", "freeze-layers": "applied", "checkpoint": "applied",
        "evaluate": "rejected", "stop": "applied",
    }  # fmt: skip
    assert trainer.optimizers[0].param_groups[0]["betas"] == (0.8, 0.95)
    assert trainer.global_step == asked["stop"].step < 80
    (saved,) = (tmp_path / "out").glob("*.ckpt")
    assert saved.name == f"surgecollapse-step={asked['checkpoint'].step}.ckpt"
    assert zeros(module) == pytest.approx(0.8, abs=1e-3)  # stopped early, and exact
    again, _ = fit(tmp_path / "again", Automatic(), ckpt=saved, enable_checkpointing=False)
    assert again.global_step == 80


class Adversarial(pl.LightningModule):
    """A generator and a discriminator with an optimizer each, called and stepped by hand in turn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.g = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
        self.d = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch, batch_idx):
        for_g, for_d = self.optimizers()
        torch.manual_seed(8 * self.current_epoch + batch_idx)
        noise = torch.randn(len(batch[0]), 4)
        self.toggle_optimizer(for_d)
        loss = nn.functional.softplus(-self.d(batch[0])) + nn.functional.softplus(self.d(self.g(noise).detach()))
        self.stepped(for_d, loss.mean())
        self.untoggle_optimizer(for_d)
        if batch_idx % 2 == 0:  # the discriminator makes two steps for one
            self.toggle_optimizer(for_g)
            self.stepped(for_g, nn.functional.softplus(-self.d(self.g(noise))).mean())
            self.untoggle_optimizer(for_g)

    def stepped(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.g.parameters(), 5e-3), torch.optim.AdamW(self.d.parameters(), 5e-3)


def both_pruned():
    readings = Readings(every=5)
    return [SurgeCollapse(0.8, module="g", total_steps=40, readings=readings),
            SurgeCollapse(0.7, module="d", total_steps=80, readings=readings)]  # fmt: skip


class HeldWithMoments(pl.Callback):
    """Looks at closed weights, and at their first moments, after every batch."""

    def __init__(self, prunings):
        self.prunings, self.wrong, self.looks = prunings, [], 0

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.looks += 1
        for part, pruning, optimizer in zip("gd", self.prunings, trainer.optimizers, strict=True):
            weights = dict(pl_module.get_submodule(part).named_parameters())
            for name, mask in pruning.controller.masks.items():
                moments = optimizer.state.get(weights[name], {}).get("exp_avg", torch.zeros(()).expand(mask.shape))
                if weights[name][~mask].any() or moments[~mask].any():
                    self.wrong.append((trainer.global_step, part, name))


@pytest.mark.conformance("heads right", place="Lightning, two networks with an optimizer each")
@pytest.mark.conformance("masks held", place="Lightning, two networks with an optimizer each")
@pytest.mark.conformance("target reached", place="Lightning, two networks with an optimizer each")
@pytest.mark.conformance("entropy read", place="Lightning, two networks with an optimizer each")
def test_two_networks_are_pruned_each_by_its_own_callback(tmp_path):
    module, prunings = Adversarial(), both_pruned()
    held = HeldWithMoments(prunings)
    fit(tmp_path, module, prunings[0], more=[prunings[1], held], enable_checkpointing=False)
    assert (held.looks, held.wrong) == (80, [])
    for part, pruning, sparsity, steps in zip("gd", prunings, (0.8, 0.7), (40, 80), strict=True):
        controller = pruning.controller
        assert controller.step == steps
        assert set(controller.masks) == {"0.weight", "2.weight"}
        weights = [module.get_submodule(part)[i].weight for i in (0, 2)]
        size = sum(p.numel() for p in weights)
        assert sum(int(mask.sum()) for mask in controller.masks.values()) == int((1 - sparsity) * size + 0.5)
        assert all(reading.entropy is not None for reading in controller.readings)


@pytest.mark.conformance("resume bitwise", place="Lightning, two networks with an optimizer each")
def test_two_pruned_networks_resume_bitwise(tmp_path):
    every = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    whole, prunings = Adversarial(), both_pruned()
    fit(tmp_path, whole, prunings[0], more=[prunings[1], every])
    again, resumed = Adversarial(), both_pruned()
    options = {"more": [resumed[1]], "ckpt": str(tmp_path / "epoch=4.ckpt"), "enable_checkpointing": False}
    fit(tmp_path, again, resumed[0], **options)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(prunings, resumed, strict=True):
        assert one.controller.step == other.controller.step
        assert all(torch.equal(mask, other.controller.masks[name]) for name, mask in one.controller.masks.items())


def test_several_networks_without_a_forward_pass_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"Adversarial has no forward\(\).*module=\.\.\.\), one of 'g', 'd'"):
        fit(tmp_path, Adversarial(), SurgeCollapse(0.8, total_steps=80), enable_checkpointing=False)
