"""What all sections of a configuration share: they are frozen, take no unknown key, and check themselves."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

NONE = "none"
"""How a file says that a key which may be left out is left out: TOML has no null."""


def shown(value: Any) -> str:
    """A value as a file has it.

    >>> shown(True), shown("a"), shown((1, 2)), shown(None)
    ('true', "'a'", '[1, 2]', 'none')
    """
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else repr(value)


class Section(BaseModel):
    """One section of a configuration.

    Raises:
        pydantic.ValidationError: for an unknown key, or a value that the key does not take.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_lookalikes(cls, given: Any) -> Any:
        """Pydantic would read ``true`` as 1 and ``"5"`` as 5: in a file, both are slips that should be seen."""
        if not isinstance(given, dict):
            return given
        values = {}
        for key, value in given.items():
            annotation = cls.model_fields[key].annotation if key in cls.model_fields else None
            parts = {annotation, *get_args(annotation)}
            values[key] = value = None if value == NONE and type(None) in parts else value
            if annotation is bool and not isinstance(value, bool):
                raise ValueError(f"{key} = {value!r}: expected true or false, got a {type(value).__name__}")
            if {int, float} & parts:
                for item in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(item, bool | str):
                        raise ValueError(f"{key} = {shown(item)}: expected a number, got a {type(item).__name__}")
        return values
