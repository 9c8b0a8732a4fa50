"""Isotropic polarizability of molecules (QM9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from surgecollapse.lab.tasks.registry import Task, task

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


@task("qm9")
class QM9(Task):
    """Molecules as graphs, and a property of each, see :func:`~surgecollapse.lab.data.qm9.qm9`."""

    preset: ClassVar[Preset] = {
        "model": "gnn",
        "widths": (32, 16, 32),
        "loss": "mse",
        "train_samples": 200,
        "batch_size": 32,
        "steps": 2_000,
        "weight_decay": 0.01,
    }
    labels = "numbers"
    draws_samples = True

    qm9_first_molecules: bool = Field(
        False, description="Molecules: train and validate on the first of the files, the smallest."
    )

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets."""
        from surgecollapse.lab.data.qm9 import qm9

        del representation
        return qm9(seed, data_dir=self.data_dir, samples=self.train_samples, first_molecules=self.qm9_first_molecules)
