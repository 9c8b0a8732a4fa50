"""Data of a user's own project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from surgecollapse.lab.references import absolute, called, found_part, is_reference
from surgecollapse.lab.section import Others
from surgecollapse.lab.tasks.registry import OfferedTask, StreamedTask, is_offered

if TYPE_CHECKING:
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.tasks.registry import Preset, Representation


class ReferencedTask(StreamedTask):
    """What a function of the project returns; it has ``seed`` and ``data_dir`` where it takes them."""

    preset: ClassVar[Preset] = {"loss": "auto"}

    data_options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the function that makes your own data, as a table or as JSON."
    )

    @field_validator("task")
    @classmethod
    def _absolute(cls, task: str) -> str:
        return absolute(task)

    def load(self, seed: int, representation: Representation) -> Data:
        """Return the three sets; see :func:`~surgecollapse.lab.data.own.as_data`.

        Raises:
            ConfigError: if there is no such function, or what it returns cannot be used.
        """
        from surgecollapse.lab.data.own import as_data
        from surgecollapse.lab.data.streamed import BadSamples

        del representation
        part = found_part(self.task, "data")
        offered: dict[str, Any] = {"seed": seed, "data_dir": self.data_dir}
        made = called(part, self.task, self.data_options, offered) if callable(part) else part
        bad = BadSamples(self.max_bad)
        return as_data(made, self.task, seed, bad, workers=self.workers, held=self.validation_samples)


OTHER_TASKS: Others = ((ReferencedTask, is_reference), (OfferedTask, is_offered))
"""Tasks without a name of their own."""
