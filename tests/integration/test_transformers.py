"""The callback for the Trainer of transformers, against the real package."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from surgecollapse import CyclicPruning, Readings, RunStore, Target  # noqa: E402
from surgecollapse.commands import command_from  # noqa: E402
from surgecollapse.dashboard.runs import Runs  # noqa: E402
from surgecollapse.integrations.transformers import SurgeCollapseCallback  # noqa: E402
from surgecollapse.record import CommandQueue  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2,
        max_position_embeddings=16, hidden_dropout_prob=0.1,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


class Sentences(torch.utils.data.Dataset):
    def __init__(self, n=64):
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(50, (n, 8), generator=generator)
        self.labels = (self.ids[:, 0] > 25).long()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": self.labels[i]}


def trained(folder, callback=None, resume=None, **changed):
    options = {
        "output_dir": str(folder), "max_steps": 40, "per_device_train_batch_size": 8, "learning_rate": 1e-3,
        "logging_steps": 10, "save_steps": 20, "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0,
    }  # fmt: skip
    callback = callback or SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5))
    trainer = transformers.Trainer(
        model=bert(), args=transformers.TrainingArguments(**{**options, **changed}), train_dataset=Sentences(),
        eval_dataset=Sentences(16), callbacks=callback if isinstance(callback, list) else [callback],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def zeros(model, controller):
    prunable = [dict(model.named_parameters())[name] for name in controller.masks]
    return sum(int((p == 0).sum()) for p in prunable) / sum(p.numel() for p in prunable)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained(folder)


@pytest.mark.conformance("target reached", place="transformers Trainer")
@pytest.mark.conformance("heads right", place="transformers Trainer")
def test_the_target_is_met_and_saved_models_keep_their_zeros(whole, tmp_path):
    _, trainer, callback = whole
    assert callback.controller.frozen
    assert not callback.controller.attached
    assert zeros(trainer.model, callback.controller) == pytest.approx(0.8, abs=1e-3)
    trainer.model.save_pretrained(tmp_path / "saved")
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert zeros(again, callback.controller) == zeros(trainer.model, callback.controller)
    assert not any(name.startswith("classifier") for name in callback.controller.masks)


@pytest.mark.conformance("entropy read", place="transformers Trainer")
def test_our_numbers_are_in_the_trainers_log(whole):
    _, trainer, _ = whole
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all("sparsity" in entry for entry in logged)
    assert logged[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert any("activation_entropy" in entry for entry in logged)


def test_each_logged_loss_is_in_one_reading(whole):
    _, trainer, callback = whole
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [reading.loss for reading in callback.controller.readings if reading.loss is not None] == logged[:-1]


def test_it_warns_of_a_run_that_learns_nothing(tmp_path):
    with pytest.warns(UserWarning, match="training has learned nothing"):
        trained(tmp_path, learning_rate=0.0)


def test_a_policy_that_reads_confidence_is_left_to_it(tmp_path):
    policy = CyclicPruning(when_not_recovering="at_most")
    _, callback = trained(tmp_path, SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5), policy=policy))
    assert all(reading.loss is None for reading in callback.controller.readings)


@pytest.mark.conformance("resume bitwise", place="transformers Trainer")
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(whole):
    folder, trainer, callback = whole
    again, resumed = trained(folder, resume=str(folder / "checkpoint-20"))
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, dict(again.model.named_parameters())[name]), name
    assert all(torch.equal(mask, resumed.controller.masks[name]) for name, mask in callback.controller.masks.items())
    assert resumed.controller.readings[-1].loss == callback.controller.readings[-1].loss
    assert resumed.controller.policy.state_dict() == callback.controller.policy.state_dict()


def same_end(one, other):
    weights = dict(other[0].model.named_parameters())
    masks = other[1].controller.masks
    return all(torch.equal(p, weights[name]) for name, p in one[0].model.named_parameters()) and all(
        torch.equal(mask, masks[name]) for name, mask in one[1].controller.masks.items()
    )


def test_a_run_goes_on_bitwise_in_another_folder(whole, tmp_path):
    folder, *parts = whole
    assert same_end(parts, trained(tmp_path, resume=str(folder / "checkpoint-20")))


def test_a_checkpoint_of_the_same_step_of_another_run_is_not_mistaken_for_the_loaded_one(whole, tmp_path):
    folder, *parts = whole
    callback = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5), policy="gmp")
    trained(tmp_path, callback, learning_rate=3e-3)
    assert same_end(parts, trained(tmp_path, resume=str(folder / "checkpoint-20")))


def test_a_moved_checkpoint_is_found_by_the_arguments_alone(whole, tmp_path):
    folder, *parts = whole
    moved = shutil.copytree(folder / "checkpoint-20", tmp_path / "moved")
    file = moved / "trainer_state.json"
    state = json.loads(file.read_text())
    state["stateful_callbacks"]["surgecollapse"]["output_dir"] = str(tmp_path / "gone")
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="set resume_from_checkpoint of TrainingArguments"):
        trained(tmp_path / "new", resume=str(moved))
    assert same_end(parts, trained(tmp_path / "new", resume=str(moved), resume_from_checkpoint=str(moved)))


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient_accumulation_steps": 2},
        {"max_grad_norm": 0.1},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"optim": "sgd"},
        {"torch_compile": True, "torch_compile_backend": "eager"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_it_works_with_what_the_trainer_offers(tmp_path, changed):
    trainer, callback = trained(tmp_path, save_strategy="no", **changed)
    assert zeros(trainer.model, callback.controller) == pytest.approx(0.8, abs=1e-3)
    assert any(reading.entropy is not None for reading in callback.controller.readings)


class Held(transformers.TrainerCallback):
    """Looks at every closed weight after every optimizer step."""

    def __init__(self, pruning):
        self.pruning, self.revived, self.looks = pruning, [], 0

    def on_step_end(self, args, state, control, model=None, **_):
        self.looks += 1
        weights = dict(model.named_parameters())
        masks = self.pruning.controller.masks
        self.revived += [state.global_step for name, mask in masks.items() if weights[name][~mask].any()]


@pytest.mark.conformance("masks held", place="transformers Trainer")
@pytest.mark.parametrize("changed", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}], ids=str)
def test_masks_hold_after_every_step(tmp_path, changed):
    pruning = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5))
    held = Held(pruning)
    trained(tmp_path, [pruning, held], save_strategy="no", **changed)
    assert held.looks == 40
    assert held.revived == []


def test_trackers_get_our_numbers_where_the_callback_goes_first(tmp_path):
    seen = []

    class Tracker(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append(dict(logs))

    pruning = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5))
    options = {"output_dir": str(tmp_path), "max_steps": 40, "logging_steps": 10, "report_to": [], "use_cpu": True}
    arguments = transformers.TrainingArguments(**options, disable_tqdm=True, save_strategy="no")
    trainer = transformers.Trainer(bert(), arguments, train_dataset=Sentences(), callbacks=[Tracker(), pruning])
    assert pruning.before_trackers(trainer) is trainer
    trainer.train()
    losses = [logs for logs in seen if "loss" in logs]
    assert len(losses) == 4
    assert losses[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert all("activation_entropy" in logs for logs in losses)


def test_only_a_trainer_that_has_the_callback_can_put_it_first():
    pruning = SurgeCollapseCallback(0.5)
    arguments = transformers.TrainingArguments("out", report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match=r"not a callback of this trainer.*callbacks=\[\.\.\.\]"):
        pruning.before_trackers(transformers.Trainer(bert(), arguments))


def translated(folder, resume=None):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    rows = [{"input_ids": torch.arange(6) + i, "labels": torch.arange(6) + i} for i in range(1, 33)]
    arguments = transformers.Seq2SeqTrainingArguments(
        str(folder), max_steps=40, per_device_train_batch_size=8, report_to=[], disable_tqdm=True, use_cpu=True,
        save_steps=20, predict_with_generate=True, eval_strategy="steps", eval_steps=20,
    )  # fmt: skip
    pruning = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5))
    held = Held(pruning)
    trainer = transformers.Seq2SeqTrainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:4], callbacks=[pruning, held]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, pruning, held


@pytest.mark.conformance("heads right", place="transformers Seq2SeqTrainer")
@pytest.mark.conformance("masks held", place="transformers Seq2SeqTrainer")
@pytest.mark.conformance("target reached", place="transformers Seq2SeqTrainer")
@pytest.mark.conformance("entropy read", place="transformers Seq2SeqTrainer")
@pytest.mark.conformance("resume bitwise", place="transformers Seq2SeqTrainer")
def test_sequence_to_sequence(tmp_path):
    trainer, pruning, held = translated(tmp_path / "whole")
    assert held.looks == 40
    assert held.revived == []
    assert zeros(trainer.model, pruning.controller) == pytest.approx(0.8, abs=1e-3)
    assert not any("shared" in name or "lm_head" in name or "bias" in name for name in pruning.controller.masks)
    assert len(pruning.controller.masks) == 2 * 6 + 4  # four of attention and two behind it, twice; across: four
    assert all(reading.entropy is not None for reading in pruning.controller.readings)
    again = translated(tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-20"))
    assert same_end((trainer, pruning), again)


def test_every_trial_of_a_hyper_parameter_search_is_pruned(tmp_path):
    pytest.importorskip("optuna")
    pruning, reached = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=5)), []

    class Ended(transformers.TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **_):
            reached.append((id(pruning.controller), zeros(model, pruning.controller)))

    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=40, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        args=arguments, model_init=lambda *_: bert(), train_dataset=Sentences(), eval_dataset=Sentences(16),
        callbacks=[pruning, Ended()],
    )  # fmt: skip
    trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)},
        n_trials=2, backend="optuna",
    )  # fmt: skip
    assert len({controller for controller, _ in reached}) == 2
    assert all(share == pytest.approx(0.8, abs=1e-3) for _, share in reached)


def test_the_best_model_is_chosen_under_the_final_mask_alone(tmp_path):
    trainer, callback = trained(
        tmp_path, eval_strategy="steps", eval_steps=5, save_steps=5, load_best_model_at_end=True,
        metric_for_best_model="loss",
    )  # fmt: skip
    frozen = next(event.step for event in callback.controller.events if event.kind == "freeze")
    assert int(trainer.state.best_model_checkpoint.rpartition("-")[2]) >= frozen
    assert zeros(trainer.model, callback.controller) == pytest.approx(0.8, abs=1e-3)


def test_the_trainer_knows_the_number_of_steps():
    with pytest.raises(TypeError, match="set max_steps"):
        SurgeCollapseCallback(0.5, total_steps=10)


class Person(transformers.TrainerCallback):
    """Sends commands to the run's file after given steps, as the page and the terminal do."""

    def __init__(self, store, said):
        self.queue, self.said, self.listed = CommandQueue(store.path), said, []
        self.folder = store.path.parent.parent

    def on_step_end(self, args, state, control, **_):
        for kind, body in self.said.get(state.global_step, ()):
            self.queue.put(command_from(kind, body), source="page")
        if state.global_step == 8:
            self.listed = Runs(self.folder).listing()["runs"]
        time.sleep(0.12)  # the queue is looked at ten times a second


def test_a_run_of_the_trainer_is_on_the_page_and_takes_commands(tmp_path):
    (tmp_path / "runs" / "bert").mkdir(parents=True)
    said = {
        2: [("set-optimizer", {"option": "weight_decay", "value": 0.3}), ("collapse", {"fraction": 0.2})],
        4: [("freeze-layers", {"layers": ["bert.embeddings"]}), ("checkpoint", {}), ("roll-back", {"step": 1})],
        6: [("evaluate", {})],
        10: [("stop", {})],
    }
    with RunStore(tmp_path / "runs" / "bert" / "run.db", mode="w") as store:
        pruning = SurgeCollapseCallback(
            sparsity=0.8, readings=Readings(every=5), recorders=[store], commands=store.path
        )
        person = Person(store, said)
        trainer, _ = trained(tmp_path / "out", [pruning, person], save_strategy="no")
        asked = {one.kind: one for one in person.queue.all()}
    assert [(row["name"], row["status"]) for row in person.listed] == [("bert", "live")]
    assert {kind: one.status for kind, one in asked.items()} == {
        "set-optimizer": "applied", "collapse": "applied", "freeze-layers": "applied", "checkpoint": "applied",
        "roll-back": "rejected", "evaluate": "rejected", "stop": "applied",
    }  # fmt: skip
    assert asked["roll-back"].reason.startswith("this loop cannot roll back")
    assert "set eval_strategy" in asked["evaluate"].reason
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.3}
    stopped = trainer.state.global_step
    assert stopped == asked["stop"].step < 40
    saved = asked["checkpoint"].step
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == [f"checkpoint-{saved}"]
    assert zeros(trainer.model, pruning.controller) == pytest.approx(0.8, abs=1e-3)  # stopped early, and exact


def test_a_checkpoint_without_our_state_is_refused(tmp_path):
    plain = transformers.TrainerCallback()
    trained(tmp_path, plain)
    with pytest.raises(ValueError, match="no controller's state was found"):
        trained(tmp_path, SurgeCollapseCallback(Target(0.5)), resume=str(tmp_path / "checkpoint-20"))
