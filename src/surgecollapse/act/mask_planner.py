"""Which weights a collapse closes: counts, minima, and the masks themselves. Nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from surgecollapse.act.collapse import plan_collapse
from surgecollapse.act.layouts import Layouts
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.randomness import Generators
from surgecollapse.errors import one_of
from surgecollapse.events.switches import ALLOCATIONS, GROWTH
from surgecollapse.functional import Pattern, kept, minimum_live
from surgecollapse.functional.criteria.registry import RANDOM, SALIENCY, check_saliency
from surgecollapse.functional.growth import random
from surgecollapse.functional.structured import open_count
from surgecollapse.plugins import find
from surgecollapse.protocols import Criterion


def criterion_of(option: str, chosen: str | Criterion | None) -> str | Criterion | None:
    """One of our criteria by its name as it stands; one that a package offers by its name as a function.

    Args:
        option: ``saliency`` or ``growth``.
        chosen: as the user gave it.

    Raises:
        ValueError: for an unknown name.
        TypeError: if what a package offers cannot be called.
    """
    own = (*SALIENCY, RANDOM) if option == "saliency" else GROWTH
    if not isinstance(chosen, str) or chosen in own:
        return chosen
    found: Criterion = find("criteria", option, chosen, SALIENCY, also=own)
    return found


class MaskPlanner:
    """Plans masks of prunable weights.

    Args:
        weights: the prunable weights.
        generators: for the criterion ``random``.
        saliency: what is closed first: ``magnitude``, ``taylor``, or a criterion.
        allocation: ``global | layer | erk``.
        min_density: least open share of every parameter.
        pattern: weights open and close in its tiles; ``None``: one by one.
        layouts: which dimensions of a weight are its rows, for a pattern.

    Attributes:
        starved: parameters that were said to be at their minimum density.
    """

    def __init__(
        self,
        weights: MaskedWeights,
        generators: Generators,
        *,
        saliency: str | Criterion,
        allocation: str,
        min_density: float,
        pattern: Pattern | None = None,
        layouts: Layouts | None = None,
    ) -> None:
        if isinstance(saliency, str):
            check_saliency(saliency)
        if not 0.0 <= min_density < 1.0:
            raise ValueError(f"min_density must be in [0, 1), got {min_density}")
        self.weights, self._generators, self._saliency = weights, generators, saliency
        self.allocation = one_of("allocation", allocation, ALLOCATIONS)
        self.min_density, self.pattern, self.layouts = min_density, pattern, layouts or Layouts()
        self.starved: list[str] = []

    def criterion(self, saliency: str | Criterion | None = None) -> Criterion:
        """The function behind a saliency; ``random`` draws from the library's own generators."""
        chosen = self._saliency if saliency is None else saliency
        if not isinstance(chosen, str):
            return chosen
        if check_saliency(chosen) == RANDOM:
            return lambda weight, signal: random(weight.shape, self._generators.on(weight.device))  # noqa: ARG005
        return SALIENCY[chosen]

    def reachable(self, sparsity: float) -> float:
        """The sparsity itself; under ``N:M`` at most the pattern's own."""
        exact = self.pattern.sparsity if self.pattern is not None else None
        return sparsity if exact is None else min(sparsity, exact)

    def wanted(self, sparsity: float, layers: Sequence[str] = ()) -> int:
        """Number of weights (of the named layers) that a sparsity is to leave open."""
        weights = self.weights.only(layers) if layers else self.weights
        live = kept(weights.size, sparsity)
        if self.pattern is None:
            return live
        return open_count(self.layouts.shapes(weights.params), live, self.pattern, sparsity)

    def minima(self) -> dict[str, int]:
        """Fewest weights that each parameter keeps open."""
        sizes = self.layouts.shapes(self.weights.params)
        if self.pattern is None:
            return minimum_live(sizes, self.min_density)
        return {name: self.pattern.least(shape, self.min_density) for name, shape in sizes.items()}

    def check_target(self, sparsity: float) -> None:
        """Check that a sparsity leaves every parameter its minimum density.

        Raises:
            ValueError: if it does not, naming the parameters.
        """
        minima, live = self.minima(), self.wanted(sparsity)
        if sum(minima.values()) > live:
            tiles = f" in tiles of {self.pattern.name!r}" if self.pattern else ""
            smaller = ", or take smaller tiles" if tiles else ""
            named = ", ".join(f"{name} ({n})" for name, n in minima.items())
            raise ValueError(
                f"sparsity {sparsity:g} leaves {live} of {self.weights.size} weights, but a minimum density of "
                f"{self.min_density:g} needs {sum(minima.values())}{tiles}: {named}. Lower "
                f"min_density or the sparsity, or exclude layers{smaller}"
            )

    def check_zeros(self, sparsity: float) -> tuple[int, bool]:
        """Check that the zeros that the weights have can be the first mask of a run towards a sparsity.

        Returns:
            Their number, and whether they are the target already: to a weight a layer, as rounding of another program
            leaves it.

        Raises:
            ValueError: if the weights are sparser than the target, or a pattern is not that of the zeros.
        """
        zeros, size, room = self.weights.zeros(), self.weights.size, len(self.weights.params)
        missing = size - self.wanted(sparsity) - zeros
        if missing < -room:
            raise ValueError(
                f"masks='zeros': the prunable weights are {zeros / size:.2%} zero already, and these zeros stay; "
                f"expected a sparsity of at least that, got {sparsity:g}"
            )
        if missing > room and self.pattern is not None:
            raise ValueError(
                f"masks='zeros' under the pattern {self.pattern.name!r} keeps the zeros as they are, but "
                f"only {zeros / size:.2%} of the weights are zero for a sparsity of {sparsity:g}: prune without "
                "masks='zeros'"
            )
        return zeros, missing <= room

    def at(self, sparsity: float) -> bool:
        """Whether the masks leave as many weights open as this sparsity is to: exactly, or as near as tiles come."""
        return abs(self.weights.live - self.wanted(sparsity)) <= self._room(sparsity, self.weights)

    def _room(self, sparsity: float, weights: MaskedWeights) -> int:
        if self.pattern is None or sparsity == self.pattern.sparsity:
            return 0
        return sum(map(self.pattern.tile_size, self.layouts.shapes(weights.params).values())) // 2

    def check_collapsed(self, sparsity: float, layers: Sequence[str] = ()) -> None:
        """Assert that a collapse left as many weights open as it was to: exactly, or as near as tiles come."""
        weights = self.weights.only(layers) if layers else self.weights
        off = abs(weights.live - self.wanted(sparsity, layers))
        room = self._room(sparsity, weights)
        assert off <= room, f"a collapse to {sparsity} left {weights.live} of {weights.size} weights open"

    def newly_starved(self, allocation: str | None) -> list[str]:
        """Parameters that a global threshold would close further than their minimum density, not named before.

        Only those whose minimum is a smaller share than that of all prunable weights together.
        """
        if (allocation or self.allocation) != "global" or (self.pattern is not None and self.pattern.keep):
            return []
        least = self.minima()
        density = self.weights.live / self.weights.size
        found = [
            name
            for name, p in self.weights.params.items()
            if name not in self.starved and self.weights.live_in(name) <= least[name] < density * p.numel()
        ]
        self.starved += found
        return found

    def plan(
        self,
        sparsity: float,
        signals: Mapping[str, Tensor],
        allocation: str | None,
        saliency: str | None = None,
        layers: Sequence[str] = (),
        *,
        values: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks of a collapse (of the named layers) to ``sparsity``; nothing is written.

        With ``values`` (of every weight) these are judged instead, and what is closed may be opened.
        """
        weights = self.weights.only(layers) if layers else self.weights
        if values is not None:
            weights = self.weights.with_values(values)
        masks = plan_collapse(
            weights,
            sparsity,
            saliency=self.criterion(saliency),
            signals=signals,
            allocation=one_of("allocation", allocation or self.allocation, ALLOCATIONS),
            min_density=self.min_density,
            pattern=self.pattern,
            layouts=self.layouts,
        )
        return masks | {name: self.weights.mask(name) for name in self.weights.params if name not in masks}

    def one_ranking(self, allocation: str | None, saliency: str | None) -> bool:
        """Whether all parameters are ranked together, by magnitude."""
        chosen = self._saliency if saliency is None else saliency
        return (allocation or self.allocation) == "global" and chosen == "magnitude" and self.pattern is None

    def check_without_gradient(self, saliency: str | None = None) -> None:
        """Refuse a criterion by name that does not judge weights by their own values.

        Raises:
            ValueError: if it is ``taylor`` or ``random``.
        """
        chosen = self._saliency if saliency is None else saliency
        if isinstance(chosen, str) and chosen not in ("magnitude", "lamp"):
            raise ValueError(
                f"a soft threshold judges weights by their own values: saliency must be magnitude or lamp, got {chosen}"
            )
