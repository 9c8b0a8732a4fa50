"""``doctor``: whether the library does here what it promises, and what it would prune of a model."""

from __future__ import annotations

from typing import Any

from surgecollapse.cli.output import say
from surgecollapse.errors import ConfigError
from surgecollapse.lab.references import found_part


def doctor(model: str | None = None, /) -> int:
    """Check torch, threads, optimizer hooks and exact masks, and measure what a controller costs here.

    With a model, say instead of every parameter what it is for, whether it would be pruned, and why.

    Args:
        model: What makes the model, as file.py:factory or package.module:factory. The factory is called without
            arguments and returns a model, or a model and a batch of inputs. From the batch the layers that produce the
            output are found; without one they are not known.
    """
    if model is not None:
        say(_explained(model))
        return 0
    from rich.console import Console
    from rich.table import Table

    from surgecollapse.cli.machine_checks import examine

    table = Table("check", "result", "", box=None)
    console = Console()
    with console.status("measuring what a controller costs here"):
        checks = examine()
    for check in checks:
        mark = {True: "[green]ok", False: "[red]not as expected", None: ""}[check.good]
        table.add_row(check.name, check.value, mark)
    console.print(table)
    return 0 if all(check.good is not False for check in checks) else 1


def _explained(where: str) -> str:
    """The table of a model's parameters."""
    import torch

    from surgecollapse import Readings, attach

    made = _made(where)
    model, batch = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{where} gave a {type(model).__name__}: expected a torch.nn.Module, or one and a batch")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, 0.5, 1_000, readings=Readings(probe=batch)) as controller:
        table = str(controller.explain())
    unknown = "\n\nThe output layers are not known: let the factory return a model and a batch of inputs."
    return table + ("" if batch is not None else unknown)


def _made(where: str) -> Any:
    """What stands behind ``file.py:name`` or ``package.module:name``; called, unless it is a model already."""
    found = found_part(where, "model")
    return found() if (callable(found) and not hasattr(found, "named_parameters")) or isinstance(found, type) else found
