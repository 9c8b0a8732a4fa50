"""Recipes for large data sets, on a few files of the same form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from surgecollapse.cli import main
from surgecollapse.lab.config import read_config
from surgecollapse.record import RunStore

# Runs so short learn little before their masks are final, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:training (has learned nothing|does not recover):UserWarning")

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


def test_a_detector_on_pictures_in_the_layout_of_coco(tmp_path, monkeypatch):
    """One bright square on a dark ground, the same box for all: the loss falls, and the target is met."""
    Image = pytest.importorskip("PIL.Image")
    page = (Path(__file__).parents[2] / "docs/start/detector.md").read_text(encoding="utf-8")
    [script] = re.findall(r'^```python title="detector.py"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    (tmp_path / "detector.py").write_text(script.replace("CLASSES = 80", "CLASSES = 2"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "coco"
    (data / "annotations").mkdir(parents=True)
    for part, count in (("train2017", 16), ("val2017", 8)):
        (data / part).mkdir()
        images, objects = [], []
        for number in range(count):
            pixels = np.full((32, 32, 3), 30, dtype=np.uint8)
            pixels[8:24, 8:24, number % 2] = 220
            Image.fromarray(pixels).save(data / part / f"{number:012d}.jpg")
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 32, "height": 32})
            objects.append({"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [8, 8, 16, 16],
                            "iscrowd": 0, "area": 256})  # fmt: skip
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
        content = {"images": images, "annotations": objects, "categories": categories}
        (data / f"annotations/instances_{part}.json").write_text(json.dumps(content))
    parts = ["--data-dir", str(data), "--model", "detector.py:net", "--loss", "detector.py:loss"]
    small = ["--set", "model.width=4", "--image-size", "32", "--batch-size", "8", "--steps", "60", "--lr", "0.01"]
    argv = ["run", "coco-detection", *parts, *small, *SHORT, "--sparsity", "0.9", "--out", str(tmp_path / "run")]
    assert main([*argv, "--min-density", "0"]) == 0
    assert summary(tmp_path / "run")["sparsity"] == pytest.approx(0.9, abs=0.01)
    with RunStore(tmp_path / "run/run.db") as store:
        losses = store.measurements("loss/validation").values
    assert losses[-1] < losses[0]
