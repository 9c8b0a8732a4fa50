"""What all sections of a configuration share: they are frozen, take no unknown key, and check themselves."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


Others = tuple[tuple[type[Section], "Callable[[str], bool]"], ...]
"""Kinds of names that are not written down, each with whether something is such a name; asked last, in order."""


def one_of_kinds(tag: str, kinds: Mapping[str, type[Section]], others: Others = ()) -> Any:
    """The type of a section that a name chooses among kinds, for a field of pydantic.

    Args:
        tag: key that holds the name.
        kinds: sections by name.
        others: sections of other names.
    """

    def name_of(given: Any) -> str | None:
        name = given.get(tag) if isinstance(given, dict) else getattr(given, tag)
        if isinstance(name, str) and name in kinds:
            return name
        return next((kind.__name__ for kind, is_one in others if is_one(str(name))), name)

    named = {**kinds, **{kind.__name__: kind for kind, _ in others}}
    options: Any = reduce(or_, (Annotated[kind, Tag(name)] for name, kind in named.items()))
    return Annotated[options, Discriminator(name_of)]
