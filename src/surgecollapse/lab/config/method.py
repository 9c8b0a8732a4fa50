"""The section ``method``: which weights are pruned and when, and what is measured meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from surgecollapse.errors import unknown
from surgecollapse.events.switches import Allocation, OptimizerState, RegrowInit
from surgecollapse.lab.section import Section
from surgecollapse.plugins import offered
from surgecollapse.policies import POLICIES
from surgecollapse.policies.version_01 import NAMES

if TYPE_CHECKING:
    from typing import Self

DEFAULT_POLICY = "cyclic_pruning"
_POLICY = (
    f"A policy, or none for plain training: {', '.join(sorted(POLICIES))}. `surgecollapse list policies` says what "
    "each does."
)
_READS_ONLY = "no_op"


class AnyMethod(Section):
    """What is there without a policy, too."""

    policy: str = Field(DEFAULT_POLICY, description=_POLICY)
    every: int = Field(50, ge=1, description="Steps between two readings.")
    monitors: str = Field(
        "default",
        description="What to measure beside the readings: default, none, or names with commas between; see the page on "
        "monitors. They never affect training.",
    )
    monitor_budget: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Most that the monitors may take of the training time; 1: always at the cadence of the readings.",
    )


class PlainTraining(AnyMethod):
    """No controller at all."""

    policy: Literal["none"] = Field(description=_POLICY)

    @property
    def ends_dense(self) -> bool:
        """Whether nothing is pruned, at the end neither: so it is."""
        return True


class Controlled(AnyMethod):
    """A controller with a policy."""

    policy_options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the policy, as a table or as JSON."
    )
    sparsity: float = Field(0.9, description="Target share of the prunable weights that are zero, in [0, 1).")
    pattern: str | None = Field(
        None, description="Weights that open and close together: N:M (2:4), block:RxC (block:4x1), or unit."
    )
    allocation: Allocation = Field("global", description="How zeros spread over layers.")
    min_density: float = Field(0.005, ge=0, le=1, description="Least share of live weights in each layer.")
    saliency: str = Field(
        "magnitude", description="Criterion by which weights are pruned: magnitude, lamp, taylor or random."
    )
    growth: str | None = Field(
        None,
        description="Criterion by which weights are reopened: random, gradient, ema_gradient or momentum; "
        "by default the policy's own.",
    )
    regrow_init: RegrowInit | None = Field(
        None, description="First value of a reopened weight; by default the policy's own."
    )
    noise_energy_budget: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Most energy that a surge may inject over the live energy; default 0.1.",
    )
    optimizer_state: OptimizerState = Field(
        "reset", description="What becomes of the optimizer's moments where the mask changes."
    )
    entropy: str = Field(
        "renyi2",
        description="Form of the activation entropy: renyi2, on_off, unit_energy, spectral, predictive or histogram.",
    )

    @field_validator("policy")
    @classmethod
    def _is_known(cls, policy: str) -> str:
        if is_policy(policy):
            return policy
        if policy in NAMES:
            raise ValueError(f"unknown policy {policy!r}: since version 0.2 it is called {NAMES[policy]!r}")
        raise ValueError(unknown("policy", policy, ["none", *POLICIES, *offered("policies")]))

    @field_validator("sparsity")
    @classmethod
    def _is_a_share(cls, sparsity: float) -> float:
        if 0 <= sparsity < 1:
            return sparsity
        hint = f". Did you mean {sparsity / 100:g}?" if 1 < sparsity < 100 else ""
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity:g}{hint}")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.policy == _READS_ONLY and self.policy_options:
            given = ", ".join(self.policy_options)
            raise ValueError(
                f"policy {self.policy!r} takes no policy_options, got {given}: choose a policy, or drop them"
            )
        if self.pattern is not None:
            if self.ends_dense:
                raise ValueError(f"pattern = {self.pattern!r} has no effect with policy {self.policy!r}: drop it")
            from surgecollapse.functional.structured import fitting_pattern  # imports torch

            fitting_pattern(self.pattern, self.sparsity)
        return self

    @property
    def ends_dense(self) -> bool:
        """Whether nothing is pruned, at the end neither.

        >>> Controlled(policy="redo").ends_dense, Controlled(policy="redo", policy_options={"over": "gmp"}).ends_dense
        (True, False)
        >>> Controlled(sparsity=0).ends_dense
        True
        """
        over = self.policy_options.get("over", _READS_ONLY) if self.policy == "redo" else self.policy
        return over == _READS_ONLY or self.sparsity == 0


def is_policy(name: str) -> bool:
    """Whether a controller can have this policy."""
    return name in POLICIES or name in offered("policies")


def _tag(given: Any) -> str:
    policy = given.get("policy", DEFAULT_POLICY) if isinstance(given, dict) else given.policy
    return "plain" if policy == "none" else "controlled"


Method = Annotated[
    Annotated[PlainTraining, Tag("plain")] | Annotated[Controlled, Tag("controlled")], Discriminator(_tag)
]
