"""Products of two permutations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import EnumeratedTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("permutations")
class Permutations(EnumeratedTask):
    """All pairs of permutations; see :func:`~surgecollapse.lab.data.synthetic.permutations`."""

    preset: ClassVar[Preset] = {
        "model": "decoder",
        "widths": (128, 512),
        "steps": 2_000,
        "batch_size": 512,
        "lr": 3e-3,
        "weight_decay": 1.0,
        "beta2": 0.98,
        "warmup": 10,
        "evaluate_every": 50,
    }

    degree: int = Field(5, ge=2, le=6, description="Permutations: of how many things.")

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets; only as tokens."""
        from surgecollapse.lab.data.synthetic import permutations

        del representation
        return permutations(self.degree, self.train_fraction, seed)
