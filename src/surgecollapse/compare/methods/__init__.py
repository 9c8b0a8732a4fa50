"""The methods of a comparison, as data: what each one is, and the eight settings that its tuning may choose from.

A method is a configuration of the one training loop and the one mask engine, never a second trainer. Every method has
eight trials on the validation set, no more and no less. For the sparse ones these are dropout rates, and how the zeros
spread over the layers: the lowest |w| of all, evenly, or by LAMP. Methods that are sparse from the start choose between
ERK and evenly. These settings moved accuracy most in ``benchmarks/reports/search.md``; everything else is as published.
Surge-collapse has fewer rates and, in their place, its depth and number of cycles. It is deep where the net overfits.
Elsewhere it is never deeper than the target, with one surge or three.
"""

from __future__ import annotations

from surgecollapse.compare.methods.ablations import ABLATIONS
from surgecollapse.compare.methods.registry import Method, Settings, method, registered

METHODS: dict[str, Method] = registered()
"""By name, in the order of the tables."""

__all__ = ["ABLATIONS", "METHODS", "Method", "Settings", "method"]
