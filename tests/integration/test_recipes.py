"""Recipes for large data sets, on a few files of the same form."""

from __future__ import annotations

import numpy as np
import pytest

from surgecollapse.cli import main
from surgecollapse.lab.config import read_config
from surgecollapse.record import RunStore

SHORT = ["--device", "cpu", "--workers", "0", "--warmup", "2", "--every", "1", "--evaluate-every", "20"]


def summary(folder):
    with RunStore(folder / "run.db") as store:
        return store.get("summary")


def test_resnet_50_on_pictures_in_the_layout_of_imagenet(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    draws = np.random.default_rng(0)
    for part, count in (("train", 14), ("val", 6)):
        for label, name in enumerate(("n01440764", "n01443537")):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 120, (36, 40, 3)) + 130 * np.eye(3, dtype=int)[label]
                path = tmp_path / "data" / part / name / f"{name}_{number}.JPEG"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "data/train/n01440764/n01440764_99.JPEG").write_bytes(b"torn")
    small = ["--image-size", "32", "--widths", "4", "--batch-size", "8", "--steps", "40", "--validation-samples", "4"]
    data, out = ["--data-dir", str(tmp_path / "data")], ["--out", str(tmp_path / "run")]
    assert main(["run", "imagenet-resnet50", *data, *out, *SHORT, *small, "--min-density", "0"]) == 0
    found = summary(tmp_path / "run")
    assert found["sparsity"] == pytest.approx(0.9, abs=0.01)
    config = read_config(tmp_path / "run/config.toml")
    assert (config.model.name, config.model.depth, config.optimizer.name) == ("resnet", 50, "sgd")
    with RunStore(tmp_path / "run/run.db") as store:
        assert len(store.get("bad_samples")) == 1


def test_gpt_2_on_tokens_in_the_form_of_nanogpt(tmp_path):
    tokens = (np.arange(4_000) % 7).astype(np.uint16)  # what follows is always known
    tokens.tofile(tmp_path / "train.bin")
    tokens[:800].tofile(tmp_path / "val.bin")
    small = ["--text-length", "16", "--vocab-size", "8", "--widths", "24,48", "--layers", "2", "--batch-size", "8"]
    data, out = ["--data-dir", str(tmp_path)], ["--out", str(tmp_path / "run")]
    argv = ["run", "openwebtext-gpt2-small", *data, *out, *SHORT, *small, "--lr", "0.01", "--steps", "120"]
    assert main(argv) == 0
    found = summary(tmp_path / "run")
    assert found["sparsity"] == pytest.approx(0.9, abs=0.01)
    assert found["accuracy"] > 2 / 7  # chance is 1/7
