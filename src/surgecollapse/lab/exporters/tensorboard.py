"""A run as TensorBoard's event files: scalars, histograms, figures, hparams, and a layout that shows the state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.record import Run, load_run

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_LAYERS = ("entropy", "on_off", "energy", "dead")
_STATE = {
    "learning": ("loss/train", "loss/validation", "accuracy/train", "accuracy/validation"),
    "sparsity": ("sparsity", "reading/sparsity"),
    "entropy": ("reading/entropy", "reading/on_off", "reading/target_entropy"),
    "energy": ("energy/weights", "gradient_norm", "reading/grad_norm"),
}


def to_tensorboard(run: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's record for TensorBoard, while it trains or afterwards.

    Measurements and readings become scalars, interventions and requests text, the final weights histograms, the plots
    of its report figures (those that are there), configuration and final numbers hparams.

    Args:
        run: run directory.
        out: where to write; by default ``tensorboard`` in the run.

    Returns:
        The folder, for ``tensorboard --logdir``.

    Raises:
        FileNotFoundError: if there is no run.
        ImportError: if tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ImportError("TensorBoard files need tensorboardX: pip install 'surgecollapse[tensorboard]'") from error
    folder = Path(out) if out is not None else Path(run) / "tensorboard"
    with load_run(run) as found, SummaryWriter(str(folder), write_to_disk=True) as writer:
        names = [*_measurements(found, writer), *_readings(found, writer)]
        _texts(found, writer)
        _histograms(Path(run), writer)
        _figures(Path(run), writer)
        _hparams(found, writer)
        writer.add_custom_scalars({"state": _layout(names)})
    return folder


def _layout(names: list[str]) -> dict[str, list[Any]]:
    """One chart for each part of the state, of the series that there are."""
    charts = {title: [name for name in wanted if name in names] for title, wanted in _STATE.items()}
    charts["entropy by layer"] = [name for name in names if name.startswith("layer_entropy/")]
    return {title: ["Multiline", chosen] for title, chosen in charts.items() if chosen}


def _measurements(run: Run, writer: SummaryWriter) -> list[str]:
    names = []
    for name, layer in run.store.names():
        tag = name if layer is None else f"{name}/{layer}"
        steps, values = run.series(name, layer)
        for step, value in zip(steps.tolist(), values.tolist(), strict=True):
            writer.add_scalar(tag, value, step)
        names.append(tag)
    return names


def _readings(run: Run, writer: SummaryWriter) -> list[str]:
    names: dict[str, None] = {}
    for event in run.store.readings():
        numbers = {
            f"reading/{key}": getattr(event, key)
            for key in ("entropy", "on_off", "target_entropy", "grad_norm", "sparsity")
        }
        numbers |= {f"layer_{key}/{layer.layer}": getattr(layer, key) for layer in event.layers for key in _LAYERS}
        for tag, value in numbers.items():
            if value is not None:
                writer.add_scalar(tag, value, event.step)
                names[tag] = None
    return list(names)


def _texts(run: Run, writer: SummaryWriter) -> None:
    for event in run.store.interventions():
        change = f"{event.sparsity_before:.4f} → {event.sparsity_after:.4f}"
        writer.add_text(f"intervention/{event.kind}", f"{event.reason} (sparsity {change})", event.step)
    for request in run.store.requests():
        writer.add_text(f"request/{request.kind}", f"{request.status}: {request.reason}", request.step)


def _histograms(run: Path, writer: SummaryWriter) -> None:
    """Of the weights at every checkpoint that is there."""
    from surgecollapse.lab.checkpoint import load_checkpoint, step_checkpoints

    for path in reversed(step_checkpoints(run / "checkpoints")):
        state = load_checkpoint(path)
        for name, value in state["model"].items():
            if value.is_floating_point() and value.numel() > 1:
                writer.add_histogram(f"weights/{name}", value.float().numpy(), state["step"])


def _figures(run: Path, writer: SummaryWriter) -> None:
    """The report's plots, the confusion matrix among them, if the report was written."""
    pictures = sorted((run / "report").glob("**/*.png"))
    if not pictures:
        return
    from matplotlib.image import imread

    for picture in pictures:
        writer.add_image(f"report/{picture.stem}", imread(picture)[..., :3], 0, dataformats="HWC")


def _hparams(run: Run, writer: SummaryWriter) -> None:
    config, summary = run.store.get("config", {}), run.store.get("summary", {})
    given = {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in config.items()
    }
    reached = {
        f"final/{name}": float(value)
        for name, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    writer.add_hparams(given, reached, name="hparams")
