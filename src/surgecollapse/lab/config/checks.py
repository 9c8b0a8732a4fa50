"""What the keys of a configuration must be, beside what the type of each of them says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo

    from surgecollapse.lab.config.run_config import RunConfig

MOST_WIDTH = 1_000_000
"""Of one hidden layer."""
_IMAGES = ("digits", "mnist5k", "mnist", "fashion-mnist")
_WITH_POSITIONS = ("transformer", "decoder", "gpt")


def refuse_lookalikes(given: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> None:
    """Pydantic would read ``true`` as 1 and ``"5"`` as 5: in a file, both are slips that should be seen.

    Raises:
        ValueError: for such a value.
    """
    for key, value in given.items():
        annotation = fields[key].annotation if key in fields else None
        if annotation is bool and not isinstance(value, bool):
            raise ValueError(f"{key} = {value!r}: expected true or false, got a {type(value).__name__}")
        if {int, float} & {annotation, *get_args(annotation)}:
            for item in value if isinstance(value, list | tuple) else (value,):
                if isinstance(item, bool | str):
                    raise ValueError(f"{key} = {_shown(item)}: expected a number, got a {type(item).__name__}")


def check_together(config: RunConfig) -> None:
    """Check what keys must be together.

    Raises:
        ValueError: for the first that does not fit.
    """
    if (config.steps is None) == (config.epochs is None):
        raise ValueError("give either steps or epochs, and only one of them")
    if not config.widths and config.model != "mlp":
        raise ValueError(f"widths must name at least one width for model {config.model!r}")
    if any(not 1 <= width <= MOST_WIDTH for width in config.widths):
        raise ValueError(f"widths must be from 1 to {MOST_WIDTH}, got {list(config.widths)}")
    if config.policy in ("none", "no_op") and config.policy_options:
        given = ", ".join(config.policy_options)
        raise ValueError(
            f"policy {config.policy!r} takes no policy_options, got {given}: choose a policy, or drop them"
        )


def check_pattern(config: RunConfig) -> None:
    """Check the pattern against the sparsity, at the price of importing torch where there is one.

    Raises:
        ValueError: if the policy does not prune, or the pattern allows another sparsity.
    """
    if config.pattern is None:
        return
    if config.policy == "none" or config.ends_dense:
        raise ValueError(f"pattern = {config.pattern!r} has no effect with policy {config.policy!r}: drop it")
    from surgecollapse.functional.structured import fitting_pattern

    fitting_pattern(config.pattern, config.sparsity)


class _Need(NamedTuple):
    """What keys need if they differ from their defaults, and what is said where that is not there."""

    keys: str
    met: Callable[[RunConfig], bool]
    otherwise: str


_NO_EFFECT = "{key} = {value} has no effect with "
_NEEDS = (
    _Need(
        "muon_lr muon_tokens muon_beta1 decay_vectors",
        lambda c: c.optimizer == "muon",
        _NO_EFFECT + "optimizer = {c.optimizer!r}: drop it",
    ),
    _Need("eps", lambda c: c.optimizer in ("adam", "adamw"), _NO_EFFECT + "optimizer = {c.optimizer!r}: drop it"),
    _Need("grokfast_alpha", lambda c: c.grokfast == "ema", _NO_EFFECT + "grokfast = {c.grokfast!r}: drop it"),
    _Need("grokfast_window", lambda c: c.grokfast == "ma", _NO_EFFECT + "grokfast = {c.grokfast!r}: drop it"),
    _Need("grokfast_lamb", lambda c: c.grokfast != "none", _NO_EFFECT + "grokfast = {c.grokfast!r}: drop it"),
    _Need(
        "embedding_scale embedding_lr",
        lambda c: c.model in (*_WITH_POSITIONS, "lstm"),
        "{key} = {value}: model {c.model!r} has no embeddings; drop it",
    ),
    _Need("hold", lambda c: c.schedule != "constant", _NO_EFFECT + "schedule = {c.schedule!r}: drop it"),
    _Need(
        "position_scale position_lr",
        lambda c: c.model in _WITH_POSITIONS,
        "{key} = {value}: model {c.model!r} has no positions; drop it",
    ),
    _Need(
        "standardize",
        lambda c: c.task in _IMAGES,
        "{key} = {value}: the task {c.task!r} has no images from files; drop it",
    ),
    _Need("content_words", lambda c: c.task == "imdb", "{key} = {value}: the task {c.task!r} has no reviews; drop it"),
    _Need("smallest", lambda c: c.task == "qm9", "{key} = {value}: the task {c.task!r} has no molecules; drop it"),
    _Need(
        "label_noise class_weights",
        lambda c: c.task != "kjv",
        "{key} = {value}: the labels of kjv are its own characters; drop it",
    ),
    _Need(
        "give_up",
        lambda c: c.forecast != "none",
        "{key} = {value} needs a forecast: choose train, unlabelled or labelled",
    ),
    _Need(
        "stop_at_accuracy",
        lambda c: c.until != "grokked",
        "until = {c.until!r} and {key} are two goals: drop one",
    ),
    _Need(
        "forecast",
        lambda c: c.task not in ("kjv", "qm9"),
        "{key} = {value} is for classification, got the task {c.task}: drop it",
    ),
    _Need(
        "label_noise class_weights",
        lambda c: c.task != "qm9",
        "{key} = {value}: the labels of qm9 are numbers; drop it",
    ),
    _Need(
        "task",
        lambda c: c.task != "qm9" or c.loss == "mse",
        "loss = {c.loss!r}: the labels of qm9 are numbers, so its loss is mse",
    ),
    _Need("dropout", lambda c: c.model != "gnn", "{key} = {value}: model {c.model!r} has none; drop it"),
    _Need(
        "readout", lambda c: c.model == "lstm", "{key} = {value} is for model 'lstm', got model {c.model!r}: drop it"
    ),
    _Need("bias", lambda c: c.model == "mlp", "{key} = {value} is for model 'mlp', got model {c.model!r}: drop it"),
)


def check_effects(config: RunConfig) -> None:
    """A setting of something that is not there would be ignored: say so.

    Raises:
        ValueError: for the first such setting.
    """
    fields = type(config).model_fields
    for need in _NEEDS:
        for key in need.keys.split():
            value = getattr(config, key)
            if value != fields[key].default and not need.met(config):
                raise ValueError(need.otherwise.format(key=key, value=_shown(value), c=config))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
