"""A run's settings as a search space: which key of the configuration each name is, and when it has an effect.

A setting that the policy, the model, the optimizer or the filter of a trial does not have is not drawn in that trial.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from surgecollapse.errors import ConfigError, unknown
from surgecollapse.lab.config import RunConfig, flat_values, layered
from surgecollapse.lab.config.keys import FAMILIES, KEYS, flat, unfit
from surgecollapse.lab.config.making import as_mapping
from surgecollapse.policies import make_policy
from surgecollapse.tuning.space import decoded, draw, parse_domain

if TYPE_CHECKING:
    from optuna import Trial

Layer = Mapping[str, Any]

_TAGS = tuple(family.own(family.tag) for family in FAMILIES.values() if family.tag is not None)
"""Keys that say which other keys there are; they are drawn first."""
_NOT_SEARCHED = {
    "seed": "every trial has the same seeds; say how many with --seeds",
    "split_seed": "every trial has the same data",
    "task": "it is what the settings are searched for",
    "data_dir": "it is where the data lie",
}
_OPTIONS = "_options"


@dataclass(frozen=True)
class Setting:
    """One searched setting."""

    name: str
    """As it was given."""
    key: str
    """Own name of the key of the configuration."""
    option: str | None
    """The entry of that key, if it is a table (``policy_options``)."""
    domain: BaseDistribution


def resolve(name: str) -> tuple[str, str | None]:
    """The key that a name stands for, and the entry of it, if the key is a table.

    Names are a key's own (``lr``) or dotted (``optimizer.lr``, ``grokfast.lamb``). They may also be an option of the
    policy (``policy.floor``) or of another part that has a table of options.

    Raises:
        ConfigError: for an unknown name.

    >>> resolve("optimizer.lr"), resolve("transforms.grokfast.lamb"), resolve("policy.cycles")
    (('lr', None), ('grokfast_lamb', None), ('policy_options', 'cycles'))
    """
    if name in KEYS:
        return name, None
    head, dot, rest = name.partition(".")
    inner = rest if head in FAMILIES else name
    first, _, option = inner.partition(".")
    if option and f"{first.removesuffix(_OPTIONS)}{_OPTIONS}" in KEYS:
        return f"{first.removesuffix(_OPTIONS)}{_OPTIONS}", option
    joined = inner.replace(".", "_")
    if joined in KEYS and (head not in FAMILIES or KEYS[joined][0] == head):
        return joined, None
    if dot and head in FAMILIES and f"{head}{_OPTIONS}" in KEYS and rest not in FAMILIES[head].named:
        return f"{head}{_OPTIONS}", rest
    if dot and head in FAMILIES:
        (key,) = flat({name: None})  # raises with the keys of that section
        return key, None
    see = "policy.OPTION or one of `surgecollapse list keys`"
    raise ConfigError(unknown("setting", name, [], unlisted=KEYS, see=see))


class RunSpace:
    """What a search over a run's settings draws, and the configurations that come of it.

    Args:
        layers: the experiment: keys in layers of which the later override the earlier ones.
        domains: what each setting may be, by name.

    Attributes:
        base: the experiment.
        settings: what is searched, in the order in which it is drawn.
        policies: those that a trial may have.

    Raises:
        ConfigError: for an unknown setting, one that has no effect, or an end of a range that a run refuses.

    >>> space = RunSpace([{"task": "digits"}], {"policy": "rigl,gmp", "policy.drop_fraction": "0.1..0.5"})
    >>> [setting.name for setting in space.drawn({"policy": "gmp"})]
    ['policy']
    """

    def __init__(self, layers: Sequence[Layer], domains: Mapping[str, Any]) -> None:
        self.layers = [dict(layer) for layer in layers]
        self.base = layered(*self.layers)
        self._values = flat_values(as_mapping(self.base))
        self.policies = [str(self._values["policy"])]
        # The policies first: they say of which type their options are.
        names = sorted(domains, key=lambda name: resolve(name)[0] not in _TAGS)
        found = [self._setting(name, domains[name]) for name in names]
        self.settings = tuple(found)
        taken = [(setting.key, setting.option) for setting in self.settings]
        if len(set(taken)) < len(taken):
            twice = next(setting.name for i, setting in enumerate(self.settings) if taken[i] in taken[:i])
            raise ConfigError(f"search: {twice} is given twice, under two names; give it once")
        self._check()

    def _setting(self, name: str, given: Any) -> Setting:
        key, option = resolve(name)
        if key in _NOT_SEARCHED:
            raise ConfigError(f"search {name}: {_NOT_SEARCHED[key]}; drop it")
        domain = _typed(parse_domain(name, given), self._kind(key, option))
        if key == "policy" and isinstance(domain, CategoricalDistribution):
            self.policies = [str(choice) for choice in domain.choices]
        return Setting(name, key, option, domain)

    def _kind(self, key: str, option: str | None) -> Any:
        """The type of a value: of a key by its annotation, of an option of a policy by its field."""
        if option is None:
            return KEYS[key][1].annotation
        named = self.policies if key == "policy_options" else []
        return next((kind for policy in named for name, kind in _options(policy).items() if name == option), None)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Distributions by the name of the setting."""
        return {setting.name: setting.domain for setting in self.settings}

    def defaults(self) -> list[dict[str, Any]]:
        """The experiment's own settings as a trial, if the space holds all of them; else nothing."""
        found: dict[str, Any] = {}
        policy = self._values["policy"]
        options = {} if policy in ("none", "no_op") else vars(make_policy(policy, **self._values["policy_options"]))
        for setting in self.settings:
            if setting.key == "policy_options":
                value = options.get(str(setting.option))
            else:
                value = (self._values.get(setting.key) or {}).get(setting.option) if setting.option else (
                    self._values.get(setting.key))  # fmt: skip
            value = json.dumps(value) if isinstance(value, list | tuple | dict) else value
            if not _holds(setting.domain, value):
                return []
            if self._applies(setting, found):
                found[setting.name] = value
        return [found]

    # ---- one trial ------------------------------------------------------------------------------------------------

    def draw(self, trial: Trial) -> dict[str, Any]:
        """Let a trial draw every setting that has an effect beside those drawn before it."""
        values: dict[str, Any] = {}
        for setting in self.settings:
            if self._applies(setting, values):
                values[setting.name] = draw(trial, setting.name, setting.domain)
        return values

    def drawn(self, values: Mapping[str, Any]) -> Iterator[Setting]:
        """The settings that a trial with such choices draws."""
        return (setting for setting in self.settings if self._applies(setting, values))

    def _applies(self, setting: Setting, drawn: Mapping[str, Any]) -> bool:
        return self._why_not(setting, drawn) is None

    def _why_not(self, setting: Setting, drawn: Mapping[str, Any]) -> str | None:
        """Why a setting has no effect beside what was drawn."""
        tags = {s.key: drawn[s.name] for s in self.settings if s.key in _TAGS and s.name in drawn}
        values = {tag: tags.get(tag, self._values.get(tag, "none")) for tag in _TAGS}
        if setting.key in _TAGS:
            return None
        why = unfit({**values, setting.key: None}).get(setting.key)
        if why is None and setting.key == "policy_options":
            options = _options(str(values["policy"]))
            if options and setting.option not in options:
                return f"is not an option of policy {values['policy']!r}: " + unknown(
                    "option", setting.option, list(options)
                )
        return why

    def config(self, drawn: Mapping[str, Any], **more: Any) -> RunConfig:
        """The run of a trial.

        Args:
            drawn: values by the name of the setting, as :meth:`draw` returns them.
            **more: keys that override all.

        Raises:
            ConfigError: if they do not go together.
        """
        values: dict[str, Any] = {}
        tables: dict[str, dict[str, Any]] = {}
        for setting in self.settings:
            if setting.name in drawn:
                value = decoded(drawn[setting.name])
                if setting.option is None:
                    values[setting.key] = value
                else:
                    tables.setdefault(setting.key, {})[setting.option] = value
        for key, table in tables.items():
            own = key != "policy_options" or values.get("policy", self._values["policy"]) == self._values["policy"]
            values[key] = {**(self._values.get(key) or {} if own else {}), **table}
        config = layered(*self.layers, values, more)
        if "policy_options" in tables:
            make_policy(config.method.policy, **values["policy_options"])
        return config

    # ---- checks ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Make a configuration at both ends, or with every choice, of each setting."""
        tags = [setting for setting in self.settings if setting.key in _TAGS]
        choices = [_ends(setting.domain) for setting in tags]
        combinations = [
            dict(zip([tag.name for tag in tags], combination, strict=True))
            for combination in itertools.islice(itertools.product(*choices), 1_000)
        ]
        for setting in self.settings:
            if setting.key in _TAGS:
                continue
            fitting = next((c for c in combinations if self._applies(setting, c)), None)
            if fitting is None:
                raise ConfigError(f"search {setting.name} {self._why_not(setting, combinations[0])}; drop it")
            for end in _ends(setting.domain):
                self._try(setting, {**fitting, setting.name: end})
        for combination in combinations:
            self._try(None, combination)

    def _try(self, setting: Setting | None, values: Mapping[str, Any]) -> None:
        first = {s.name: _ends(s.domain)[0] for s in self.drawn(values)}
        try:
            self.config({**first, **values})
        except (ValueError, TypeError) as error:
            where = "" if setting is None else f"search {setting.name} = {decoded(values[setting.name])!r}: "
            raise ConfigError(f"{where}{error}") from error


def _options(policy: str) -> dict[str, Any]:
    """Options of a policy with their types; none are known of one that takes what it likes."""
    if policy in ("none", "no_op"):
        return {}
    made = make_policy(policy)
    return {field.name: field.type for field in fields(made) if field.init} if is_dataclass(made) else {}


def _ends(domain: BaseDistribution) -> list[Any]:
    """What a setting may be at most: both ends, or all choices."""
    if isinstance(domain, CategoricalDistribution):
        return list(domain.choices)
    assert isinstance(domain, FloatDistribution | IntDistribution)
    return [domain.low, domain.high]


def _holds(domain: BaseDistribution, value: Any) -> bool:
    try:
        return bool(domain._contains(domain.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False


def _typed(domain: BaseDistribution, kind: Any) -> BaseDistribution:
    """A range of whole numbers as one of real numbers, where the setting is a real number: ``0..1``."""
    if not isinstance(domain, IntDistribution) or domain.step != 1:
        return domain
    kinds = {kind, *get_args(kind)} if not isinstance(kind, str) else {float if "float" in kind else int}
    real = float in kinds and int not in kinds
    return FloatDistribution(float(domain.low), float(domain.high), log=domain.log) if real else domain
