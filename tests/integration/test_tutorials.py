"""The scripts of the tutorials do what their pages say, in a small form."""

from __future__ import annotations

import csv

import pytest
import torch
import tutorials

pytestmark = pytest.mark.filterwarnings("ignore")


def zeros(model, controller):
    weights = [dict(model.named_parameters())[name] for name in controller.masks]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)


def test_an_encoder_is_fine_tuned_to_the_target_and_saved_with_its_zeros(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "scene", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "encoder")
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "encoder")
    with (tmp_path / "reviews.csv").open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["text", "label"])
        for i in range(80):
            rows.writerow([f"the {'good' if i % 2 else 'bad'} film", i % 2])
    script = tutorials.script("fine_tune")
    accuracy, model, controller = script.fine_tune(
        tmp_path / "encoder", tmp_path / "reviews.csv", 0.8, steps=50, batch=8, length=8, held_out=10,
    )  # fmt: skip
    assert 0.0 <= accuracy <= 1.0
    closed, size = zeros(model, controller)
    assert size - closed == int((1 - 0.8) * size + 0.5)
    model.save_pretrained(tmp_path / "sparse-encoder")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse-encoder")
    assert zeros(again, controller) == (closed, size)


def test_a_language_model_is_pruned_on_any_text(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "book.txt").write_text("In the beginning was the word. " * 200)
    bits, model, controller = tutorials.script("gpt_on_text").train(
        tmp_path / "book.txt", 0.8, steps=250, width=16, layers=1, length=16, batch=4
    )
    assert 0.0 < bits < 4.5  # of 16 characters drawn evenly: 4
    closed, size = zeros(model, controller)
    assert size - closed == int((1 - 0.8) * size + 0.5)
    assert {name.rsplit(".", 2)[1] for name in controller.masks} == {"c_attn", "c_proj", "c_fc"}


def test_a_resnet_is_pruned_except_norms_and_classifier():
    script = tutorials.script("resnet")
    model = script.resnet18(4, channels=1)
    names = {name for name, p in model.named_parameters() if p.ndim == 4}
    assert len(names) == 20  # stem, 16 of blocks, three shortcuts
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    accuracy, model, controller = script.train(0.9, steps=60, width=2, batch=8, policy="gmp")
    assert 0.0 <= accuracy <= 1.0
    closed, size = zeros(model, controller)
    assert size - closed == int((1 - 0.9) * size + 0.5)
    assert set(controller.masks) == names


def test_rows_become_a_table_with_paired_differences():
    rows = [
        {"sparsity": level, "seed": seed, "value": value}
        for level, values in {0.0: (0.9, 0.8), 0.9: (0.85, 0.81)}.items()
        for seed, value in enumerate(values)
    ]
    assert tutorials.summary("resnet", rows)[2:] == [
        "| dense | 85.0 | 80.0 to 90.0 | – | 2 |",
        "| 90% | 83.0 | 81.0 to 85.0 | -2.0 | 2 |",
    ]
