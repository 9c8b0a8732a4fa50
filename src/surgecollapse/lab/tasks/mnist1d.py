"""MNIST-1D (Greydanus and Kobak, arXiv 2011.14439)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from surgecollapse.lab.tasks.registry import ClassTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("mnist1d")
class MNIST1D(ClassTask):
    """Series of 40 values."""

    preset: ClassVar[Preset] = {
        "steps": 4_000,
        "batch_size": 100,
        "lr": 3e-3,
        "weight_decay": 0.1,
        "schedule": "cosine",
    }

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets, which are the same for all seeds."""
        from surgecollapse.lab.data.mnist1d import mnist1d

        del seed, representation
        return mnist1d()
