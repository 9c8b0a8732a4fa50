"""Products of two permutations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.modular import Modular
from surgecollapse.lab.tasks.registry import EnumeratedTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("permutations")
class Permutations(EnumeratedTask):
    """All pairs of permutations; see :func:`~surgecollapse.lab.data.synthetic.permutations`."""

    preset: ClassVar[Preset] = {**Modular.preset, "model": "decoder"}

    degree: int = Field(5, ge=2, le=6, description="Permutations: of how many things.")

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets; only as tokens."""
        from surgecollapse.lab.data.synthetic import permutations

        del representation
        return permutations(self.degree, self.train_fraction, seed)
