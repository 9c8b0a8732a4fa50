"""What a comparison was run with and on, for its record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.plan import identity, make_cell
from surgecollapse.lab.config import ConfigError, as_mapping
from surgecollapse.record.machine import machine

if TYPE_CHECKING:
    from surgecollapse.compare.plan import Plan


def describe_session(path: Path, plan: Plan, *, reference: str, command: str, jobs: int) -> dict[str, Any]:
    """The content of ``config.json``: the plan with every configuration, and all sessions so far with this one.

    Args:
        path: the file, from which earlier sessions are taken.
        plan: what is compared.
        reference: name of the method that others are compared with.
        command: the command line.
        jobs: processes.

    Raises:
        ConfigError: if the file is there and damaged.
    """
    return {
        "suite": plan.suite.name,
        "entries": [entry.label for entry in plan.chosen],
        "sparsities": {entry.label: plan.sparsities_of(entry) for entry in plan.suite.entries},
        "seeds": plan.seeds,
        "budget": plan.budget,
        "tuned_at": {entry.label: plan.tuned_at(entry) for entry in plan.suite.entries},
        "reference": reference,
        "sessions": [*_sessions(path), {"command": command, "jobs": jobs, "began": _now(), **machine()}],
        "methods": {
            entry.label: {
                method.name: {
                    "config": identity(
                        as_mapping(make_cell(entry, method, plan.tuned_at(entry), 0, {}, data_dir=plan.data_dir).config)
                    ),
                    "trials": list(method.trials),
                }
                for method in plan.methods
            }
            for entry in plan.suite.entries
        },
    }


def _sessions(path: Path) -> list[Any]:
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8")).get("sessions", []))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): remove it") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
