"""The training runs of a search: of its trials, and of the settings that are trained on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.plan import identity, key_of, version
from surgecollapse.lab.config import as_mapping
from surgecollapse.tuning.objectives import NEED_NET, Objective

if TYPE_CHECKING:
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.tuning.settings import RunSpace

FIRST_SEED = 10_000
"""First seed of the trials; the runs at the end have seeds from 0, which no trial had."""
_NEVER = 10**9


@dataclass(frozen=True)
class Run:
    """One training run of a trial, or of the end."""

    name: str
    config: RunConfig
    trial: int | None
    """Number of its trial; ``None`` for a run on a fresh seed."""
    seed: int
    report: str | None = None
    extra: tuple[str, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """What its process is sent."""
        test = self.trial is None
        config = dict(as_mapping(self.config))
        return {"config": config, "report": self.report, "extra": self.extra, "test": test}

    @cached_property
    def key(self) -> str:
        """Equal for runs of the same configuration."""
        return key_of(as_mapping(self.config))

    def row(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept of it in ``rows.jsonl``."""
        facts = {"key": self.key, "trial": self.trial, "seed": self.seed, "version": version()}
        return {**facts, **result, "config": identity(as_mapping(self.config))}


class RunMaker:
    """Makes the runs of a search from settings.

    Args:
        space: whose settings.
        objectives: of the search.
        pruner: by name; those over steps follow the first run of a trial.
        seeds: runs of each trial.
    """

    def __init__(self, space: RunSpace, objectives: Sequence[Objective], *, pruner: str, seeds: int) -> None:
        self._space, self._seeds = space, seeds
        self._report = objectives[0].reports if pruner in ("median", "hyperband") else None
        self._extra = tuple(objective.name for objective in objectives if objective.name in NEED_NET)

    def of_trial(self, values: Mapping[str, Any], number: int, index: int) -> Run:
        """The run of a trial on its seed of an index, from 0.

        Raises:
            ValueError, TypeError: if the settings do not go together.
        """
        name = f"trial {number}" + (f" seed {index + 1}" if self._seeds > 1 else "")
        # With several seeds, the pruners over steps decide on the first one's curve.
        report = self._report if index == 0 else None
        return self._run(name, values, FIRST_SEED + index, number, report)

    def fresh(self, name: str, params: Mapping[str, Any], count: int) -> list[Run]:
        """Runs of these settings on seeds that no trial had."""
        return [self._run(f"{name} fresh seed {seed}", params, seed, None, None) for seed in range(count)]

    def _run(self, name: str, values: Mapping[str, Any], seed: int, trial: int | None, report: str | None) -> Run:
        base = self._space.base.run
        more: dict[str, Any] = {"seed": seed, "split_seed": base.data_seed, "threads": 1, "checkpoint_every": _NEVER}
        if not any("monitors" in layer for layer in self._space.layers):
            more["monitors"] = "none"
        return Run(name, self._space.config(values, **more), trial, seed, report, self._extra)
