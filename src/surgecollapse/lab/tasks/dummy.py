"""Generated clusters: which of 128 random prototypes is this?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import ClassTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("dummy")
class Dummy(ClassTask):
    """10,000 noisy prototypes, see :func:`~surgecollapse.lab.data.synthetic.dummy`."""

    preset: ClassVar[Preset] = {"steps": 2_000, "schedule": "cosine", "weight_decay": 0.05, "warmup": 50}

    noise: float = Field(
        2.5, ge=0, allow_inf_nan=False, description="Dummy data: standard deviation of the noise on the inputs."
    )

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.synthetic import dummy

        del representation
        return dummy(self.noise, 10_000, seed)
