"""What a comparison trains: cells, each with its full configuration and a key that says when two are the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from surgecollapse.compare.methods import Method
from surgecollapse.compare.suites import Entry, Suite
from surgecollapse.errors import unknown
from surgecollapse.lab.config import ConfigError, RunConfig, as_mapping, flat_values, layered
from surgecollapse.lab.config.keys import FAMILIES, KEYS, unfit
from surgecollapse.lab.references import is_reference
from surgecollapse.lab.section import Section
from surgecollapse.policies import make_policy
from surgecollapse.record.machine import library_version

TUNING_SEED = 10_000
"""The one seed of all tuning; no report uses it."""
_NEVER = 10**9
_ELSEWHERE = ("data_dir", "device", "threads", "checkpoint_every", "gradient_trace_every", "monitors", "monitor_budget")
"""What may differ between machines, or decides nothing."""
Thing = TypeVar("Thing")
Choices = Mapping[tuple[str, str], Mapping[str, Any]]
"""Settings that tuning chose, by (entry, method)."""
Length = Callable[[Entry, Method, float], int | None]
"""Steps of a method that trains for as long as costs the FLOPs of the reference; ``None``: not known yet."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a comparison."""

    key: str
    """Equal for cells that are the same run."""
    entry: str
    method: str
    sparsity: float | None
    """Target; ``None`` for methods that end dense, which are run once whatever the sparsity."""
    seed: int
    trial: int | None
    """Number of the trial where the run is one of a method's tuning, else ``None``."""
    config: RunConfig

    @property
    def name(self) -> str:
        """In a few words.

        >>> from surgecollapse.lab.config import make_config
        >>> config = make_config(task="digits")
        >>> Cell(key="", entry="digits-mlp", method="gmp", sparsity=0.9, seed=3, trial=None, config=config).name
        'digits-mlp gmp 90% seed 3'
        """
        target = "" if self.sparsity is None else f" {100 * self.sparsity:g}%"
        run = f"seed {self.seed}" if self.trial is None else f"trial {self.trial + 1}"
        return f"{self.entry} {self.method}{target} {run}"

    @property
    def message(self) -> dict[str, Any]:
        """The configuration as a worker takes it."""
        return dict(as_mapping(self.config))

    @property
    def facts(self) -> dict[str, Any]:
        """What a row says of the cell beside its configuration."""
        own = ("key", "entry", "method", "sparsity", "seed", "trial")
        return {**{name: getattr(self, name) for name in own}, "version": version()}


def choose(names: Sequence[str], known: Mapping[str, Thing], *, what: str) -> list[Thing]:
    """Look names up, in the order in which they were given.

    Raises:
        ConfigError: for a name that is unknown or given twice.

    >>> choose(["smok"], {"smoke": 1, "quick": 2}, what="suite")
    Traceback (most recent call last):
    surgecollapse.lab.config.ConfigError: unknown suite 'smok': expected one of smoke, quick. Did you mean 'smoke'?
    """
    for position, name in enumerate(names):
        if name not in known:
            raise ConfigError(unknown(what, name, list(known)))
        if name in names[:position]:
            raise ConfigError(f"{what} {name!r} is given twice: name each one once")
    return [known[name] for name in names]


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Settings one over the other; ``policy_options`` are merged key by key.

    >>> merged({"lr": 1, "policy_options": {"a": 1}}, {"policy_options": {"b": 2}})
    {'lr': 1, 'policy_options': {'a': 1, 'b': 2}}
    """
    values: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for part in parts:
        values.update(part)
        options.update(part.get("policy_options", {}))
    return values | ({"policy_options": options} if options else {})


def make_cell(
    entry: Entry,
    method: Method,
    sparsity: float,
    seed: int,
    choice: Mapping[str, Any],
    *,
    trial: int | None = None,
    data_dir: Path | None = None,
) -> Cell:
    """One run: the entry's settings, over them the method's, over them what tuning chose.

    Nothing but the end is evaluated or saved, unless the settings ask for early stopping.

    Raises:
        ConfigError: if the settings do not go together.
    """
    # A trial may set dropout, which a residual net, or one of a user's own, need not have.
    useless = {name for name in unfit({**entry.settings, **choice}) if KEYS[name][0] == "model"}
    choice = {name: value for name, value in choice.items() if name not in useless}
    values = merged(method.settings, choice)
    if not {**entry.settings, **values}.get("early_stopping"):
        values["evaluate_every"] = _NEVER
    values |= {
        "seed": seed,
        "checkpoint_every": _NEVER,
        "threads": 1,
        **({method.target_key: sparsity} if method.sparse else {}),
    }
    if "monitors" not in entry.settings:
        values.setdefault("monitors", "none")
    if data_dir is not None or "data_dir" not in entry.settings:
        values["data_dir"] = _folder_of(str(entry.settings["task"]), data_dir)
    try:
        config = layered(entry.settings, values)
        key = key_of(as_mapping(config))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{entry.label}, {method.name}: {error}") from error
    target = sparsity if method.sparse else None
    return Cell(key=key, entry=entry.label, method=method.name, sparsity=target, seed=seed, trial=trial, config=config)


def _folder_of(task: str, data_dir: Path | None) -> Path | None:
    """Where the files of a task lie: the folder of its name, so that one set is never read for the other."""
    if data_dir is None or (data_dir / task).is_dir():
        return data_dir and data_dir / task
    return data_dir if task == "mnist" or is_reference(task) else None


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the outcome of a run: the resolved configuration by own name, with every option of its policy.

    A key or an option may be missing, because the configuration was written before there was one. It then has its
    default, which is what the runs of that time did.

    Raises:
        ValueError: if an option of the policy is unknown.

    >>> settings = {"task": "digits", "policy": "set", "policy_options": {"drop_fraction": 0.5}}
    >>> identity(settings)["policy_options"]["interval"]
    100
    """
    values = flat_values(config)
    whole: dict[str, Any] = {"grokfast": "none", **values}
    for family in FAMILIES.values():
        tag = None if family.tag is None else family.own(family.tag)
        if tag is None or tag in whole:
            kind = family.kind(whole.get(tag or ""))
            whole = {**defaults_of(kind, family.own), **whole} if kind is not None else whole
    if whole.get("policy", "none") != "none":
        policy = make_policy(whole["policy"], **whole["policy_options"])
        whole["policy_options"] = {
            option.name: getattr(policy, option.name)
            for option in fields(policy)  # type: ignore[arg-type]
            if option.init
        }
    return {name: value for name, value in whole.items() if name not in _ELSEWHERE}


def defaults_of(kind: type[Section], own: Callable[[str], str]) -> dict[str, Any]:
    """What the keys of a section have that are not given, by own name; lists for tuples, as rows have them."""
    found = {
        own(name): field.get_default(call_default_factory=True)
        for name, field in kind.model_fields.items()
        if not field.is_required()
    }
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def key_of(config: Mapping[str, Any]) -> str:
    """A hash of :func:`identity` and of the library's major and minor version."""
    text = json.dumps({**identity(config), "version": version()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version() -> str:
    """Major and minor version of the library: between two of them, the same configuration may train differently."""
    return ".".join(library_version().split(".")[:2])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which cells a comparison consists of."""

    suite: Suite
    methods: tuple[Method, ...]
    entries: tuple[Entry, ...] | None = None
    """Those of the suite that are trained now; ``None`` for all. The tables show all that have rows."""
    sparsities: tuple[float, ...] | None = None
    """Instead of those of each entry."""
    seeds: int = 10
    budget: str = "equal"
    """``equal``: every method is tuned over its trials; ``none``: untuned; a number: over that many of its trials."""
    data_dir: Path | None = None
    tune_at: float | None = None
    """The sparsity at which methods are tuned; ``None`` for that of each entry."""

    def tuned_at(self, entry: Entry) -> float:
        """The sparsity at which methods are tuned on one entry."""
        return entry.tuned_at if self.tune_at is None else self.tune_at

    @property
    def chosen(self) -> tuple[Entry, ...]:
        """The entries that are trained."""
        return self.suite.entries if self.entries is None else self.entries

    def sparsities_of(self, entry: Entry) -> tuple[float, ...]:
        """Targets of one entry."""
        return self.sparsities or entry.sparsities

    def trials(self) -> Iterator[tuple[Entry, Method, list[Cell]]]:
        """The tuning of each method on each entry of the suite, chosen or not."""
        if self.budget == "none":
            return
        for entry in self.suite.entries:
            for method in self.methods:
                if not method.trials:
                    continue
                yield (
                    entry,
                    method,
                    [
                        make_cell(
                            entry,
                            method,
                            self.tuned_at(entry),
                            TUNING_SEED,
                            settings,
                            trial=number,
                            data_dir=self.data_dir,
                        )
                        for number, settings in enumerate(method.trials)
                    ],
                )

    def final(self, tuned: Choices, *, length: Length | None = None, guess: bool = False) -> list[Cell]:
        """The reported runs, seed by seed through all methods, so that seeds are paired at any time.

        Args:
            tuned: settings that tuning chose, by (entry, method).
            length: of methods with ``longer``.
            guess: take the first trial of a method that is not tuned yet, and the entry's steps where a length is not
                known, instead of leaving them out: for counting.
        """
        cells = []
        for seed in range(self.seeds):
            for entry in self.chosen:
                for sparsity in self.sparsities_of(entry):
                    for method in self.methods:
                        settings = self.settings_of(tuned, entry, method, guess=guess)
                        if settings is not None and method.longer is not None:
                            steps = None if length is None else length(entry, method, sparsity)
                            if steps is None and not guess:
                                continue
                            settings = {**settings, **({} if steps is None else {"steps": steps})}
                        if settings is not None:
                            cells.append(make_cell(entry, method, sparsity, seed, settings, data_dir=self.data_dir))
        return unique(cells)

    def settings_of(
        self, tuned: Choices, entry: Entry, method: Method, *, guess: bool = False
    ) -> Mapping[str, Any] | None:
        """What tuning chose for a method; ``None`` where that is not known yet.

        Args:
            tuned: settings that tuning chose, by (entry, method).
            entry: the net.
            method: itself, or one that another is, but longer.
            guess: take the first trial of a method that is not tuned yet.
        """
        own = self.base_of(method)
        if self.budget == "none" or not own.trials:
            return {}
        return tuned.get((entry.label, own.name), own.trials[0] if guess else None)

    def base_of(self, method: Method) -> Method:
        """The method itself, or the one that it is, but longer."""
        return next((other for other in self.methods if other.name == method.longer), method)


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without those that are the same run as an earlier one.

    Dense methods are one run at every sparsity, and two methods may be tuned to the same settings.
    """
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(cell.key, cell)
    return list(found.values())
