"""Images that ordinary installs bring, and IDX files."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import ClassTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation

_PRESET = {"dropout": 0.1, "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine", "warmup": 50}


class ImageTask(ClassTask):
    """Keys of all image tasks."""

    standardize: bool = Field(
        True, description="Image files: subtract the training mean and divide by the deviation; else 0 to 1."
    )


@task("digits")
class Digits(ImageTask):
    """The digits of scikit-learn."""

    preset: ClassVar[Preset] = {**_PRESET, "steps": 2_000, "evaluate_every": 50, "checkpoint_every": 500}

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.images import digits

        del representation
        return digits(seed, self.standardize)


@task("mnist5k")
class MNIST5K(ImageTask):
    """5,000 digits of MNIST."""

    preset: ClassVar[Preset] = {**_PRESET, "steps": 3_000}

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.images import mnist5k

        del representation
        return mnist5k(seed, self.standardize)


@task("fashion-mnist")
@task("mnist")
class IDXFiles(ImageTask):
    """MNIST or Fashion-MNIST from their four IDX files."""

    preset: ClassVar[Preset] = {**_PRESET, "steps": 5_000, "batch_size": 128, "widths": (300, 100)}

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.images import from_idx

        del representation
        return from_idx(self.task, self.data_dir, seed, self.standardize)
