"""The callback in TRL's ``SFTTrainer``, against the real package: a small Llama on sentences that are made here."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
datasets = pytest.importorskip("datasets")
tokenizers = pytest.importorskip("tokenizers")
trl = pytest.importorskip("trl")

from surgecollapse import Readings  # noqa: E402
from surgecollapse.integrations.transformers import SurgeCollapseCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(60))]


def tokenizer():
    whole = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=whole, **names)


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


class Held(transformers.TrainerCallback):
    """Looks at every closed weight after every optimizer step."""

    def __init__(self, pruning):
        self.pruning, self.revived, self.looks = pruning, [], 0

    def on_step_end(self, args, state, control, model=None, **_):
        self.looks += 1
        weights = dict(model.named_parameters())
        masks = self.pruning.controller.masks
        self.revived += [state.global_step for name, mask in masks.items() if weights[name][~mask].any()]


def trained(folder, **changed):
    rows = [{"text": " ".join(f"w{(i * j) % 60}" for j in range(1, 20))} for i in range(64)]
    pruning = SurgeCollapseCallback(sparsity=0.8, readings=Readings(every=4))
    options = {
        "max_steps": 40, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 32, "seed": 0,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False, "save_steps": 20, "logging_steps": 10,
        "gradient_checkpointing": False, "dataset_num_proc": None,
    }  # fmt: skip
    trainer = trl.SFTTrainer(
        llama(),
        args=trl.SFTConfig(str(folder), **{**options, **changed}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=[pruning, Held(pruning)],
    )
    trainer.train(resume_from_checkpoint=changed.get("resume_from_checkpoint"))
    return trainer, pruning.controller


def zeros(model, controller):
    prunable = [dict(model.named_parameters())[name] for name in controller.masks]
    return sum(int((p == 0).sum()) for p in prunable), sum(p.numel() for p in prunable)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained(folder)


@pytest.mark.conformance("target reached", place="TRL SFTTrainer")
@pytest.mark.conformance("heads right", place="TRL SFTTrainer")
@pytest.mark.conformance("entropy read", place="TRL SFTTrainer")
def test_fine_tuning_ends_at_the_target_with_the_output_layer_dense(whole):
    _, trainer, controller = whole
    assert controller.frozen
    closed, size = zeros(trainer.model, controller)
    assert size - closed == int((1 - 0.8) * size + 0.5)
    layers = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in controller.masks} == set(layers)
    logged = [entry for entry in trainer.state.log_history if "mean_token_accuracy" in entry]
    assert logged[-1]["sparsity"] == closed / size
    assert 0.0 < logged[-1]["activation_entropy"] <= 1.0


@pytest.mark.conformance("masks held", place="TRL SFTTrainer")
def test_masks_hold_after_every_step(whole):
    _, trainer, _ = whole
    (held,) = (callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Held))
    assert (held.looks, held.revived) == (40, [])


@pytest.mark.conformance("resume bitwise", place="TRL SFTTrainer")
def test_a_resumed_fine_tuning_is_the_whole_one(whole, tmp_path):
    folder, trainer, _ = whole
    again, _ = trained(tmp_path, resume_from_checkpoint=str(folder / "checkpoint-20"))
    assert again.state.global_step == 40
    for want, got in zip(trainer.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(want, got)


@pytest.mark.parametrize(
    "changed", [{"gradient_checkpointing": True}, {"packing": True, "packing_strategy": "wrapped"}]
)
def test_checkpointed_and_packed_fine_tuning_reaches_the_target(tmp_path, changed):
    trainer, controller = trained(tmp_path, save_strategy="no", **changed)
    closed, size = zeros(trainer.model, controller)
    assert size - closed == int((1 - 0.8) * size + 0.5)
