"""The default policy and the soft threshold, with one thing changed each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from surgecollapse.compare.methods.registry import Method, Settings

_LONGEST = 60
"""Characters of a label that tables and plots have room for."""


def _ablation(
    name: str, description: str, *, policy: str = "cyclic_pruning", growth: str | None = None, **changes: Any
) -> Method:
    """The default policy with one thing changed, on fixed dropout and evenly spread zeros: not tuned.

    Its title says the policy that it runs, with its options where they are few; the description says them all.
    """
    settings = {"policy": policy, "policy_options": changes, "dropout": 0.1, "allocation": "layer", "growth": growth}
    made = Method(name=name, title=name, description=description, settings=settings, trials=())
    label = made.runs if len(made.runs) <= _LONGEST else f"{policy}(…)"
    return replace(made, title=f"{name}: {label}", description=f"{description} Runs {made.runs}.")


_CYCLES: Settings = {
    "policy": "entropy_cycles", "timing": "fixed", "phase": 0.1, "cycles_until": 0.5, "freeze_at": 0.75, "floor": 0.3,
    "noise_std": 0.0, "final_ramp": "cubic",
}  # fmt: skip
"""Prunes at once, the last time gradually: the recommended form before decision 0010, but for its floor of 0.6 bit."""
_BY_ENTROPY: Settings = {**_CYCLES, "shortest": 0.05, "longest": 0.15}

_ABLATIONS = (
    _ablation("default", "The default policy."),
    _ablation("fixed_depth", "Always half the target's density.", floor=0.0, min_density_ratio=0.5),
    _ablation("target_depth", "Never deeper than the target.", floor=0.0, min_density_ratio=1.0),
    _ablation("one_cycle", "No surge at all.", cycles=1),
    _ablation("two_cycles", "One surge.", cycles=2),
    _ablation("half_surge", "Surges reopen half.", surge=0.5),
    _ablation("full_surge", "Surges reopen everything.", surge=1.0),
    _ablation("random_growth", "Surges reopen at random.", growth="random"),
    _ablation("fixed_times", "Collapses at once, at fixed times; only the last one is gradual.", **_CYCLES),
    _ablation("entropy_times", "Like fixed_times, but phases end by entropy.", **{**_BY_ENTROPY, "timing": "entropy"}),
    _ablation("random_times", "Like fixed_times, but phases of random length.", **{**_BY_ENTROPY, "timing": "random"}),
    _ablation("acdc_likewise", "AC/DC.", policy="acdc"),
    _ablation("gmp_likewise", "Gradual magnitude pruning.", policy="gmp"),
    _ablation("soft", "The soft threshold, p = 1.", policy="soft_threshold"),
    _ablation("soft_entropy", "The threshold follows entropy.", policy="soft_threshold_entropy"),
    _ablation("soft_cubed", "The soft threshold, p = 3.", policy="soft_threshold", p=3.0),
    _ablation("soft_hard", "A hard threshold.", policy="soft_threshold", p=0.0),
    _ablation("soft_unscaled", "Open weights stay shrunk.", policy="soft_threshold", rescale=False),
    _ablation("soft_half_gradient", "Closed weights learn half as fast.", policy="soft_threshold", theta=0.5),
    _ablation("soft_masked", "Closed weights do not learn.", policy="soft_threshold", theta=0.0),
    _ablation("soft_every_step", "Masks are taken anew in every step.", policy="soft_threshold", threshold_every=1),
    _ablation("soft_unfrozen", "The mask is frozen at the end alone.", policy="soft_threshold", freeze_at=1.0),
)

ABLATIONS: dict[str, Method] = {method.name: method for method in _ABLATIONS}
"""What in a policy earns its accuracy: each with ``--budget none``, against ``--reference default`` or ``soft``."""
