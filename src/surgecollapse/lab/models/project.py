"""A model of a user's own project."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from surgecollapse.errors import ConfigError
from surgecollapse.lab.models.registry import AnyModel
from surgecollapse.lab.references import absolute, called, found_part, is_reference
from surgecollapse.lab.section import Others

if TYPE_CHECKING:
    from torch import nn

    from surgecollapse.lab.data.dataset import Data


class ReferencedModel(AnyModel):
    """What a function, class or module of the project makes; it has the data where it takes ``data``."""

    has_embeddings = has_positions = True  # only the net itself says
    model_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the function or class that makes your own model, as a table or as JSON.",
    )

    @field_validator("name")
    @classmethod
    def _absolute(cls, name: str) -> str:
        return absolute(name)

    def build(self, data: Data) -> nn.Module:
        """Return a new net.

        Raises:
            ConfigError: if the part does not exist, its arguments do not fit, or it returns something else.
        """
        from torch import nn

        part = found_part(self.name, "model")
        if isinstance(part, nn.Module):
            if self.model_options:
                raise ConfigError(f"{self.name} is a module already, and takes no model_options: name its class")
            return copy.deepcopy(part)
        if not callable(part):
            raise ConfigError(
                f"{self.name} is a {type(part).__name__}: expected a function or class that makes a torch.nn.Module"
            )
        made = called(part, self.name, self.model_options, {"data": data})
        if not isinstance(made, nn.Module):
            raise ConfigError(f"{self.name} gave a {type(made).__name__}: expected a torch.nn.Module")
        return made


OTHER_MODELS: Others = ((ReferencedModel, is_reference),)
"""Models without a name of their own."""
