"""Every key of the configuration as a flag, and what was given on a command line as values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
from cyclopts import Group, Parameter

from surgecollapse.lab.config import ConfigError, RunConfig
from surgecollapse.lab.config.presets import DEFAULT_TASK_PRESET, TASK_PRESETS

_GROUPS = {
    "Data": "data_dir train_samples label_noise standardize smallest operation modulus train_fraction parity_bits "
    "noise_bits noise vocabulary text_length content_words",
    "Model": "model widths readout activation dropout bias init_scale embedding_scale position_scale precision",
    "Method": "recipe policy policy_options sparsity every moments entropy saliency growth initial rho distribution "
    "minimum_density pattern",
    "Training": "seed steps epochs batch_size optimizer lr embedding_lr position_lr eps weight_decay momentum beta2 "
    "schedule muon_lr muon_tokens muon_beta1 decay_vectors warmup hold average_decay weigh_batches clip "
    "grokfast grokfast_alpha grokfast_window grokfast_lamb orthograd loss "
    "class_weights early_stopping stop_at_accuracy until forecast give_up monitors monitor_budget "
    "evaluate_every checkpoint_every keep_checkpoints trace_every device threads",
}


def _flags() -> type[pydantic.BaseModel]:
    """One optional flag per configuration key; what is not given is left to the file and the presets."""
    varied = {key for preset in (DEFAULT_TASK_PRESET, *TASK_PRESETS.values()) for key in preset}
    fields: dict[str, Any] = {}
    for number, (title, names) in enumerate(_GROUPS.items()):
        group = Group(title, sort_key=number + 1)
        for name in names.split():
            field = RunConfig.model_fields[name]
            kind: Any = str if name in ("widths", "policy_options") else field.annotation
            text = str(field.description)
            if name == "widths":
                text += " Comma-separated: 256,256."
            if name in varied:
                text += " Default: the task's."
            elif field.default is not None and name != "policy_options":
                text += f" Default: {field.default}."
            fields[name] = (Annotated[kind | None, Parameter(group=group)], pydantic.Field(None, description=text))
    return pydantic.create_model("Flags", **fields)


# Made from the configuration, so that flags and TOML keys cannot drift apart; a type checker needs a plain name.
if TYPE_CHECKING:
    Flags = pydantic.BaseModel
else:
    Flags = _flags()


def values_of(flags: Any) -> dict[str, Any]:
    """The flags that were given, as configuration values."""
    values = {} if flags is None else {k: v for k, v in flags.model_dump().items() if v is not None}
    if "widths" in values:
        try:
            values["widths"] = tuple(int(width) for width in values["widths"].split(",") if width.strip())
        except ValueError as error:
            raise ConfigError(f"widths = {values['widths']!r}: expected whole numbers like 256,256") from error
    if "policy_options" in values:
        try:
            values["policy_options"] = json.loads(values["policy_options"])
        except json.JSONDecodeError as error:
            raise ConfigError(f'policy_options is no JSON ({error}): expected {{"name": value}}') from error
        except RecursionError as error:
            raise ConfigError('policy_options are nested too deeply: expected {"name": value}') from error
    return values


def words(text: str | None) -> list[str]:
    """The words between the commas of a flag; none if it was not given."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
