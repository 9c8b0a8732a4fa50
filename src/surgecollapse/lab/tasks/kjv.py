"""The next character of the King James text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import TEXT_LENGTH, Task, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("kjv")
class KingJames(Task):
    """Windows of characters of the King James Bible, see :func:`~surgecollapse.lab.data.kjv.kjv`."""

    preset: ClassVar[Preset] = {
        "model": "gpt",
        "widths": (128, 512),
        "activation": "gelu",
        "text_length": 64,
        "batch_size": 16,
        "steps": 2_000,
        "lr": 2e-3,
        "weight_decay": 0.1,
        "beta2": 0.99,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup": 50,
        "evaluate_every": 500,
    }
    labels = "characters"

    text_length: int = Field(500, ge=1, le=100_000, description=TEXT_LENGTH)

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets, which are the same for all seeds."""
        from surgecollapse.lab.data.kjv import kjv

        del seed, representation
        return kjv(data_dir=self.data_dir, length=self.text_length)
