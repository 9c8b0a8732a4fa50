"""What users read in errors and warnings: one way to say that a word is unknown, or a package missing."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Collection, Generator, Iterable
from contextlib import contextmanager
from typing import TextIO, TypeVar

Word = TypeVar("Word", bound=str)


class ConfigError(ValueError):
    """A configuration that cannot be used, in one line: which key, what was expected, what came."""

    __module__ = "surgecollapse.lab.config"  # as tracebacks name it: where it is imported from


def nearest(given: object, valid: Iterable[str], *, most: int = 1, cutoff: float = 0.5) -> list[str]:
    """The valid words that are nearest to what was given, the nearest first; none if none is near.

    Args:
        given: what came.
        valid: what is expected.
        most: how many.
        cutoff: least similarity, in [0, 1].

    >>> nearest("Digit", ["digits", "mnist"]), nearest("x", ["digits"])
    (['digits'], [])
    """
    words = {word.lower(): word for word in valid}
    return [words[word] for word in difflib.get_close_matches(str(given).lower(), words, n=most, cutoff=cutoff)]


def unknown(
    what: str, given: object, valid: Collection[str], *, unlisted: Collection[str] = (), see: str | None = None
) -> str:
    """Say that a word is unknown, list the valid ones, and suggest the nearest.

    Args:
        what: kind of the word.
        given: what came.
        valid: what is expected.
        unlisted: further valid words, too many to be listed.
        see: what these are, and where they are listed.

    >>> unknown("policy", "gpm", ["gmp", "rigl"])
    "unknown policy 'gpm': expected one of gmp, rigl. Did you mean 'gmp'?"
    >>> unknown("option", "x", [])
    "unknown option 'x': expected none"
    >>> unknown("key", "rate", ["seed"], unlisted=["rates"], see="one that the manual lists")
    "unknown key 'rate': expected one of seed, or one that the manual lists. Did you mean 'rates'?"
    """
    close = nearest(given, [*valid, *unlisted])
    listed = [f"one of {', '.join(valid)}"] if valid else []
    expected = ", or ".join([*listed, *([] if see is None else [see])]) or "none"
    return f"unknown {what} {given!r}: expected {expected}" + (f". Did you mean {close[0]!r}?" if close else "")


def one_of(what: str, given: str, valid: Collection[Word]) -> Word:
    """Return a word that is among the valid ones.

    Raises:
        ValueError: if it is not.

    >>> one_of("growth", "randm", ("random", "gradient"))
    Traceback (most recent call last):
    ...
    ValueError: unknown growth 'randm': expected one of random, gradient. Did you mean 'random'?
    """
    found = next((word for word in valid if word == given), None)
    if found is None:
        raise ValueError(unknown(what, given, valid))
    return found


def counted(number: int, what: str) -> str:
    """A number with its noun, in the plural unless it is one.

    >>> counted(1, "reading"), counted(0, "reading"), counted(1200, "step")
    ('1 reading', '0 readings', '1,200 steps')
    """
    return f"{number:,} {what}" + "s" * (number != 1)


@contextmanager
def needs(what: str, extra: str) -> Generator[None]:
    """Say what to install if a package is missing that is imported inside the block.

    Args:
        what: needs the package.
        extra: of the distribution, which brings it.

    >>> with needs("a plot", "plots"):
    ...     import no_such_package
    Traceback (most recent call last):
    ...
    ModuleNotFoundError: a plot needs no_such_package: pip install 'surgecollapse[plots]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{what} needs {error.name}: pip install 'surgecollapse[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error


def redraws(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can draw over its lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's program: the nearest one outside of this library and torch."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_INSIDE = ("surgecollapse", "torch", "contextlib")


def one_line(error: BaseException | str) -> str:
    r"""An error in one line.

    >>> one_line(ValueError("a\n  b")), one_line(MemoryError())
    ('a b', 'MemoryError')
    """
    return " ".join(str(error).split()) or type(error).__name__
