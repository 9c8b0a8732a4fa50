"""The callback for the Trainer of transformers, against the real package."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from surgecollapse import Readings, Target  # noqa: E402
from surgecollapse.integrations.transformers import SurgeCollapseCallback  # noqa: E402

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
        eval_dataset=Sentences(16), callbacks=[callback],
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


def test_the_target_is_met_and_saved_models_keep_their_zeros(whole, tmp_path):
    _, trainer, callback = whole
    assert callback.controller.frozen
    assert not callback.controller.attached
    assert zeros(trainer.model, callback.controller) == pytest.approx(0.8, abs=1e-3)
    trainer.model.save_pretrained(tmp_path / "saved")
    again = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert zeros(again, callback.controller) == zeros(trainer.model, callback.controller)
    assert not any(name.startswith("classifier") for name in callback.controller.masks)


def test_our_numbers_are_in_the_trainers_log(whole):
    _, trainer, _ = whole
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all("sparsity" in entry for entry in logged)
    assert logged[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert any("activation_entropy" in entry for entry in logged)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(whole):
    folder, trainer, callback = whole
    again, resumed = trained(folder, resume=str(folder / "checkpoint-20"))
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, dict(again.model.named_parameters())[name]), name
    assert all(torch.equal(mask, resumed.controller.masks[name]) for name, mask in callback.controller.masks.items())


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


def test_a_checkpoint_without_our_state_is_refused(tmp_path):
    plain = transformers.TrainerCallback()
    trained(tmp_path, plain)
    with pytest.raises(ValueError, match="no controller's state was found"):
        trained(tmp_path, SurgeCollapseCallback(Target(0.5)), resume=str(tmp_path / "checkpoint-20"))
