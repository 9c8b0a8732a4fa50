"""Parity of a few bits among irrelevant ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import EnumeratedTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("parity")
class Parity(EnumeratedTask):
    """2,000 rows of bits, some of which decide, see :func:`~surgecollapse.lab.data.synthetic.parity`."""

    preset: ClassVar[Preset] = {
        "widths": (200, 200),
        "steps": 2_000,
        "batch_size": 128,
        "weight_decay": 0.5,
        "evaluate_every": 50,
    }

    parity_bits: int = Field(3, ge=1, description="Sparse parity: relevant bits.")
    noise_bits: int = Field(40, ge=0, description="Sparse parity: irrelevant bits.")

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.synthetic import parity

        del representation
        return parity(self.parity_bits, self.noise_bits, 2_000, self.train_fraction, seed)
