"""Reading a run back: its configuration, data, trained model and record."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from surgecollapse.analysis.open_weights import not_finite
from surgecollapse.controller.carried import CARRIED
from surgecollapse.functional import unpack
from surgecollapse.lab.config import ConfigError, make_config, read_config
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_weights,
    must_fit,
    step_checkpoints,
)
from surgecollapse.lab.training.feed import part_batches
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.optim import make_loss
from surgecollapse.lab.training.outputs import fitted, right_share
from surgecollapse.record import RunStore
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.lab.data.streamed import StreamedData

logger = logging.getLogger(__name__)

ENDED = ("complete", "diverged")
"""Statuses of a run that has made all its steps, or was stopped by a rule of its own."""


@dataclass(frozen=True, kw_only=True)
class CheckpointedRun:
    """One run, read back from its directory."""

    directory: Path
    config: RunConfig
    data: Data
    model: nn.Module
    """In eval mode, with the weights of the newest checkpoint: the final ones, if the run is complete; where the run
    averages its weights, the average, which is also what it evaluates."""
    step: int
    """Optimizer steps after which the weights were saved."""
    store: RunStore
    """Opened for reading; close it after use."""
    status: str
    """``running | complete | diverged | interrupted | failed``; a run that was killed still says ``running``."""
    summary: dict[str, Any]
    """Final numbers; empty unless the run has ended."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Of the weights that a mask holds, by parameter name, true where they are open; empty without a controller."""

    @property
    def broken(self) -> list[str]:
        """Parameters that are not finite, each with the number of such values: the net has diverged."""
        return not_finite(dict(self.model.named_parameters()))


def load_checkpointed_run(
    directory: str | Path, *, warn: Callable[[str], None] | None = None, parts: Mapping[str, str] | None = None
) -> CheckpointedRun:
    """Load a run for reading; nothing in the directory is changed.

    Args:
        directory: the run directory.
        warn: called with one line for every damaged checkpoint that is passed over; logged by default.
        parts: of a run of one's own loop, which has no configuration: data, model and loss, see
            :func:`~surgecollapse.lab.references.parts_beside`. Its weights are the newest ``checkpoints/step-N.pt``.

    Raises:
        FileNotFoundError: if the directory holds no run, or its data files are gone.
        ValueError: if a file of it is damaged or too new, or no checkpoint was written yet.
    """
    folder = Path(directory)
    if not (folder / "run.db").is_file():
        raise FileNotFoundError(f"{folder} holds no run: expected a directory made by `surgecollapse run --out`")
    own = not (folder / "config.toml").is_file()
    if own:
        if parts is None:
            raise ConfigError(f"{folder} has no config.toml: name the net with --model FILE.py:NAME to rebuild it")
        config, state = make_config(policy="none", **parts), _saved(folder / "checkpoints")
    else:
        if parts is not None:
            raise ConfigError(f"{folder} has a config.toml, which names its model: drop --model and --data")
        config = read_config(folder / "config.toml")
        newest = latest_checkpoint(folder / "checkpoints", warn or logger.warning)
        if newest is None:
            raise CheckpointError(f"{folder} has no checkpoint yet: let it run, or resume it")
        state = newest
    data = load_data(config)
    model = build_model(config, data)
    data = fitted(config, model, data, make_loss(config, data))
    with must_fit(folder / "checkpoints"):
        model.load_state_dict(state["model"])
        if state.get("averaged") is not None:
            model.load_state_dict(state["averaged"]["average"], strict=False)
    store = RunStore(folder / "run.db")
    return CheckpointedRun(
        directory=folder,
        config=config,
        data=data,
        model=model.eval(),
        step=state["step"],
        store=store,
        status="complete" if own else store.get("status", "running"),
        summary=store.get("summary", {}),
        masks=_masks(state),
    )


def _saved(folder: Path) -> dict[str, Any]:
    """What a loop of one's own saved last."""
    paths = step_checkpoints(folder)
    if not paths:
        raise CheckpointError(
            f"{folder} has no step-N.pt: save the weights there, as torch.save(model.state_dict(), "
            f"{str(folder / 'step-800.pt')!r})"
        )
    return {"model": load_weights(paths[0]), "step": int(paths[0].stem.removeprefix("step-"))}


def _masks(state: dict[str, Any]) -> dict[str, Tensor]:
    saved = state.get("controller")  # of version 0.1
    saved = state.get("optimizer", {}).get(CARRIED, [None])[0] if saved is None else saved
    if saved is None:
        return {}
    saved = saved["engine"]["weights"]
    return {name: unpack(packed, tuple(saved["shapes"][name])) for name, packed in saved["masks"].items()}


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, rows: int = 2_048) -> Tensor:
    """Logits of all samples, in eval mode; the training mode is left as it was.

    Args:
        model: a model of this package.
        x: samples (n, …).
        rows: samples in one forward pass.

    Returns:
        Logits (n, K).
    """
    with evaluating(model):
        return torch.cat([model(part) for part in torch.split(x, rows)])


@torch.no_grad()
def score_stream(
    model: nn.Module,
    data: StreamedData,
    part: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
    most: int | None = None,
) -> tuple[float, float]:
    """Accuracy in [0, 1] and loss on a part that is read meanwhile, in eval mode; means over the samples.

    Args:
        model: the net.
        data: whose part.
        part: ``train``, ``validation`` or ``test``.
        loss: a mean over the samples of a batch.
        batch_size: samples in one forward pass.
        most: how many samples, evenly spaced; ``None`` for all.
    """
    right = total = 0.0
    count = 0
    with evaluating(model):
        for x, y in part_batches(data, part, batch_size, most=most):
            logits = model(x)
            right += right_share(logits, y, data.tolerance) * len(y)
            total += loss(logits, y).item() * len(y)
            count += len(y)
    if not count:
        raise ConfigError(f"no sample of the {part} data could be read")
    return right / count, total / count
