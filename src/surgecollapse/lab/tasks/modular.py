"""Modular arithmetic: x ∘ y mod p over all pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from surgecollapse.lab.tasks.registry import EnumeratedTask, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("modular")
class Modular(EnumeratedTask):
    """All pairs of residues and what an operation gives, see :func:`~surgecollapse.lab.data.synthetic.modular`."""

    preset: ClassVar[Preset] = {
        "model": "transformer",
        "widths": (128, 512),
        "steps": 2_000,
        "batch_size": 512,
        "lr": 3e-3,
        "weight_decay": 1.0,
        "beta2": 0.98,
        "warmup": 10,
        "evaluate_every": 50,
    }

    operation: Literal["add", "sub", "mul", "div", "quadratic", "mixed"] = Field(
        "add",
        description="Modular arithmetic: which operation; quadratic is x² + xy + y², mixed the first four as tokens.",
    )
    modulus: int = Field(97, ge=2, le=10_000, description="Modular arithmetic: the modulus.")

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.synthetic import modular

        return modular(self.operation, self.modulus, self.train_fraction, representation, seed)
