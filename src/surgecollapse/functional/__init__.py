"""Pure maths: tensors in, new tensors out; no state, no hooks, no randomness of its own."""

from surgecollapse.functional.masks import DISTRIBUTIONS, allocate, collapse_masks, pack, unpack
from surgecollapse.functional.selection import highest, kept, lowest

__all__ = [
    "DISTRIBUTIONS",
    "allocate",
    "collapse_masks",
    "highest",
    "kept",
    "lowest",
    "pack",
    "unpack",
]
