"""Exporting a finished run: write a file, load it back, and compare what it computes with what was trained."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.errors import ConfigError
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.evaluation import ENDED, load_checkpointed_run, predict
from surgecollapse.lab.training.outputs import right_share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgecollapse.lab.training.evaluation import CheckpointedRun


_REPEATS = 25
_UNITS = {"heads": "heads"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it compares with the trained net."""

    path: Path
    bytes: int
    """Size of the file."""
    dense: int
    """Bytes of the trained tensors with their zeros."""
    bound: int
    """Bytes of the non-zero values and of one bit per entry."""
    max_difference: float
    """Largest absolute difference of a logit on the validation data."""
    accuracy: tuple[float, float]
    """On the validation data, of the trained net and of what was loaded back."""
    speedup: float | None
    """Seconds before over seconds after for one batch, where the format is about speed."""
    notes: tuple[str, ...]
    """Lines worth knowing, such as why a layer stayed as it was."""


@dataclass(frozen=True)
class _Written:
    """What a format's own function hands back."""

    logits: Callable[[Tensor], Tensor]
    """What the file computes, loaded back."""
    speedup: float | None = None
    notes: tuple[str, ...] = ()


def export_run(
    directory: str | Path,
    form: str,
    *,
    out: str | Path | None = None,
    batch: int = 128,
    parts: Mapping[str, str] | None = None,
    even_diverged: bool = False,
) -> Exported:
    """Write the trained net of a run in one format, and check the file by loading it back.

    Args:
        directory: the directory of a finished run.
        form: a key of :data:`FORMATS`.
        out: the file; by default in the folder ``export`` of the run.
        batch: samples in the batch that speed is measured with.
        parts: of a run of one's own loop, see :func:`~surgecollapse.lab.training.evaluation.load_checkpointed_run`.
        even_diverged: export the net of a run that was stopped as diverged, as long as its weights are finite.

    Returns:
        Sizes, differences, accuracies and the speed-up.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ValueError: if the format is unknown, the run is not finished or has diverged, or it cannot be exported so. Also
            if the file in the run's folder is a link out of it.
        ImportError: without the packages of the extra ``export``.
        OSError: if the file cannot be written.
    """
    from surgecollapse.export.checkpoint import sizes
    from surgecollapse.export.measure import max_difference

    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}: expected one of {', '.join(FORMATS)}")
    if batch < 1:
        raise ConfigError(f"expected a batch of at least 1, got {batch}")
    run = load_checkpointed_run(directory, parts=parts)
    run.store.close()
    if run.status not in ENDED:
        way = f"surgecollapse run --resume {run.directory}"
        raise ConfigError(f"{run.directory} is {run.status}, not complete: finish it with {way}")
    if run.broken:
        raise ConfigError(
            f"{run.directory} has diverged, there is nothing to export: not finite are {', '.join(run.broken)}; train "
            "again with a smaller --lr, or with --clip"
        )
    if run.status == "diverged" and not even_diverged:
        raise ConfigError(
            f"{run.directory} has diverged and is not exported: train again with a smaller --lr, or with --clip, or "
            "export it as it is with --even-diverged"
        )
    before = _computing(run.model)(run.data.x_validation)
    if not bool(before.isfinite().all()):
        raise ConfigError(f"{run.directory} has diverged, there is nothing to export: its logits are not finite")
    name, write = FORMATS[form]
    path = Path(out) if out is not None else _inside(run.directory, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = write(run, path, run.data.x_validation[:batch])
    after = written.logits(run.data.x_validation)
    dense, bound = sizes(run.model)
    return Exported(
        path=path,
        bytes=path.stat().st_size,
        dense=dense,
        bound=bound,
        max_difference=max_difference(before, after),
        accuracy=(
            right_share(before, run.data.y_validation, run.data.tolerance),
            right_share(after, run.data.y_validation, run.data.tolerance),
        ),
        speedup=written.speedup,
        notes=written.notes,
    )


def _inside(folder: Path, name: str) -> Path:
    """The file in a run's folder, which may be a stranger's: nothing there may lead elsewhere.

    Raises:
        ValueError: if it does.
    """
    path = folder / "export" / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{path} is a link out of the run's folder: name the file with --out")
    return path


def _fresh(run: CheckpointedRun) -> nn.Module:
    """The net of the run before training, so that nothing of it can pass for what was loaded."""
    return build_model(run.config, run.data).eval()


def _computing(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: predict(model, x)


def _write_sparse(run: CheckpointedRun, path: Path, _examples: Tensor) -> _Written:
    from surgecollapse.export.checkpoint import load_sparse_into, save_sparse

    save_sparse(run.model, path, signed_zeros=False, metadata=_origin(run))
    return _Written(_computing(load_sparse_into(_fresh(run), path)))


def _write_csr(run: CheckpointedRun, path: Path, examples: Tensor) -> _Written:
    from surgecollapse.export import load_csr, save_csr, to_csr

    result = to_csr(run.model, examples, rows=(1,))
    save_csr(result.model, path, metadata=_origin(run))
    notes = [f"measured with {len(examples)} samples on {result.threads} thread(s)"]
    for layer in result.layers:
        times = ", ".join(f"{ratio:.2f}× at {rows} rows" for rows, ratio in layer.speedup.items())
        notes.append(f"{layer.name}: {layer.sparsity:.0%} zeros, {layer.form} ({times or layer.reason})")
    return _Written(_computing(load_csr(_fresh(run), path)), result.speedup, tuple(notes))


def _write_compact(run: CheckpointedRun, path: Path, examples: Tensor) -> _Written:
    import torch

    from surgecollapse.export import compact_model, load_program, save_program
    from surgecollapse.export.measure import interleaved_ratios

    before = _traceable(run)
    result = compact_model(before, examples)
    save_program(result.model, run.data.x_validation[:2], path)
    program = load_program(path)
    with torch.inference_mode():
        ratios = interleaved_ratios(lambda: before(examples), lambda: result.model(examples), _REPEATS)
    notes = [
        f"parameters {result.parameters[0]:,} → {result.parameters[1]:,}, multiplications "
        f"{result.multiplications[0]:,} → {result.multiplications[1]:,}, {result.units_cut} units cut"
    ]
    for layer in result.layers:
        why = f" ({layer.reason})" if layer.reason else ""
        notes.append(f"{layer.name}: {layer.units[0]} → {layer.units[1]} {_UNITS.get(layer.kind, 'units')}{why}")
    return _Written(_in_parts(program), statistics.median(ratios), tuple(notes))


def _write_onnx(run: CheckpointedRun, path: Path, examples: Tensor) -> _Written:
    import torch

    from surgecollapse.export import export_onnx
    from surgecollapse.export.measure import interleaved_ratios
    from surgecollapse.export.onnx import onnxruntime

    model = _traceable(run)
    result = export_onnx(model, run.data.x_validation[:2], path)
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def compute(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {result.inputs[0]: x.numpy()})[0])

    with torch.inference_mode():
        ratios = interleaved_ratios(lambda: model(examples), lambda: compute(examples), _REPEATS)
    note = f"opset {result.opset}; speed-up: onnxruntime over torch, {torch.get_num_threads()} thread(s)"
    return _Written(_in_parts(compute), statistics.median(ratios), (note,))


def _write_two_four(run: CheckpointedRun, path: Path, _examples: Tensor) -> _Written:
    from surgecollapse.export import load_sparse_into, save_sparse, two_four_layers

    layers = two_four_layers(run.model)
    notes = [f"{layer.name}: {layer.reason or 'ready for 2:4 kernels'}" for layer in layers]
    if not any(layer.qualifies for layer in layers):
        raise ConfigError(f"no layer can use 2:4 kernels: {'; '.join(notes) or 'the model has no linear layers'}")
    save_sparse(copy.deepcopy(run.model).half(), path, signed_zeros=False, metadata=_origin(run))
    loaded = load_sparse_into(_fresh(run).half(), path).to(next(run.model.parameters()).dtype)
    notes.append("in float16; on the GPU, surgecollapse.export.to_semi_structured converts what was loaded")
    return _Written(_computing(loaded), None, tuple(notes))


def _traceable(run: CheckpointedRun) -> nn.Module:
    """The net in a form whose steps do not depend on the values of its inputs."""
    from surgecollapse.lab.nets.decoder import Decoder

    if isinstance(run.model, Decoder) and run.model.economy == "prefixes":
        run.model.economy = "last"
    return run.model


def _in_parts(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Call on 2,048 samples at a time, without gradients."""
    import torch

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return torch.cat([function(part) for part in torch.split(x, 2_048)])

    return logits


def _origin(run: CheckpointedRun) -> dict[str, Any]:
    return {
        "run": run.directory.name,
        "task": run.config.data.label,
        "model": run.config.model.label,
        "step": str(run.step),
    }


FORMATS: dict[str, tuple[str, Callable[[CheckpointedRun, Path, Tensor], _Written]]] = {
    "sparse": ("model.safetensors", _write_sparse),
    "csr": ("model.csr.safetensors", _write_csr),
    "compact": ("model.pt2", _write_compact),
    "onnx": ("model.onnx", _write_onnx),
    "2:4": ("model.2-4.safetensors", _write_two_four),
}
"""Format → default name of the file, and what writes it."""
