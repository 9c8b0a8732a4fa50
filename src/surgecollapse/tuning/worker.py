"""A process that trains one run of a trial after another on one thread, and reports evaluations meanwhile."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.pool import Reported
from surgecollapse.compare.worker import serve_with
from surgecollapse.tuning.objectives import LATENCY, NOISE, ROBUST

if TYPE_CHECKING:
    from surgecollapse.lab.training.progress import Snapshot

PRUNED = "pruned"
"""Key of the row of a run that was stopped: the step after which."""


def serve(connection: Connection, scratch: str, core: int | None = None) -> None:
    """Train what comes, until nothing comes.

    Args:
        connection: to the parent.
        scratch: folder for temporary run directories.
        core: the one that the process is to use.
    """

    def tell(step: int, value: float) -> bool:
        connection.send(Reported(step, value))
        return bool(connection.recv())

    serve_with(lambda message: train_run(message, Path(scratch), tell), connection, core)


class _StoppedError(Exception):
    """The pruner gave the trial up."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class _Reporter:
    """Shows nothing; reports each evaluation once, and stops the run if told so."""

    def __init__(self, what: str, tell: Callable[[int, float], bool]) -> None:
        self._what, self._tell, self._last = what, tell, 0

    def start(self, title: str, total: int, done: int) -> None:
        """Ignore it."""

    def update(self, snapshot: Snapshot) -> None:
        """Report the evaluation, if there was one."""
        step = snapshot.evaluated_at
        value = snapshot.accuracy if self._what == "accuracy" else snapshot.validation_loss
        if step is None or step == self._last or value is None or not math.isfinite(value):
            return
        self._last = step
        if self._tell(step, value):
            raise _StoppedError(step)

    def note(self, line: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it."""


def train_run(
    message: dict[str, Any], scratch: Path, tell: Callable[[int, float], bool] = lambda _step, _value: False
) -> dict[str, Any] | None:
    """Train one run in a temporary directory.

    Args:
        message: ``config``, the configuration as a mapping, and ``report``, the number that evaluations report, or
            ``None``. ``extra`` has names of objectives that need the net itself, and ``test`` says whether the test set
            may be seen.
        scratch: where the temporary directory goes.
        tell: takes a step and a number, and says whether to stop.

    Returns:
        Numbers of the validation set and of the net, those of the test set under names with ``test_``. If the run was
        stopped, only ``pruned`` and ``flops``. ``None`` if it was interrupted.
    """
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.progress import Silent
    from surgecollapse.lab.training.run import train

    config, test = make_config(**message["config"]), bool(message["test"])
    progress = Silent() if message["report"] is None else _Reporter(message["report"], tell)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="run-") as folder:
        place = Path(folder) / "run"
        try:
            result = train(config, place, progress=progress, test=test)
        except _StoppedError as stopped:
            return {PRUNED: stopped.step, "flops": _operations(place, stopped.step, 1.0)}
        if result.status == "interrupted":
            return None
        row = _row(result.summary, test)
        row["flops"] = _operations(place, result.summary["steps"], result.summary["flops_training"])
        if ROBUST in message["extra"]:
            row[ROBUST] = robust_accuracy(place)
        if LATENCY in message["extra"]:
            row[LATENCY] = latency(place)
        return row


def _row(summary: dict[str, Any], test: bool) -> dict[str, Any]:
    kept = ("mean_density", "sparsity", "flops_training", "flops_inference", "bytes_sparse", "steps", "interventions")
    found = {key: summary[key] for key in kept if key in summary}
    found |= {"seconds": round(summary["seconds"], 3), "diverged": bool(summary["diverged"])}
    found["t_gen_sustained"] = summary["grokking"]["t_gen_sustained"]
    measured = {"accuracy": summary["accuracy_validation"], "loss": summary["loss_validation"]}
    if test:
        measured |= {"test_accuracy": summary["accuracy"], "test_loss": summary["loss"]}
    if "bits_per_character" in summary:
        losses = {key: value for key, value in measured.items() if key.endswith("loss")}
        measured |= {key.replace("loss", "bits_per_character"): value / math.log(2) for key, value in losses.items()}
    # JSON has no NaN: such a run has diverged.
    return found | {key: value if math.isfinite(value) else None for key, value in measured.items()}


def _operations(place: Path, steps: int, share: float) -> float:
    """Floating-point operations of a run: two for each multiplication by a weight, of which a step has three.

    ``share`` of them are made, the others are by zero.
    """
    from surgecollapse.record import RunStore

    with RunStore(place / "run.db") as store:
        costs = store.get("costs", {})
    return float(6 * sum(costs.get("multiplications", {}).values()) * costs.get("rows", 0.0) * steps * share)


def robust_accuracy(place: Path) -> float:
    """Validation accuracy of a trained run, its inputs under Gaussian noise of :data:`NOISE` times their deviation.

    Raises:
        ValueError: if the inputs are not real numbers.
    """
    import torch

    from surgecollapse.lab.training.evaluation import load_checkpointed_run, predict
    from surgecollapse.lab.training.outputs import right_share

    run = load_checkpointed_run(place)
    run.store.close()
    x, y = run.data.x_validation, run.data.y_validation
    if not x.is_floating_point():
        raise ValueError(f"{ROBUST} needs inputs that are real numbers, got {x.dtype}: choose another objective")
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=draws, dtype=x.dtype) * (NOISE * x.std())
    return right_share(predict(run.model, x + noise), y, run.data.tolerance)


def latency(place: Path) -> float:
    """Median milliseconds of a trained run's net in onnxruntime, compacted, on one thread, for 16 validation samples.

    Times are those of this machine, and noisy: compare them within one study.

    Raises:
        ImportError: without the packages of the extra ``onnx``.
        ValueError: if the net cannot be exported.
    """
    from surgecollapse.export import compact_model, export_onnx
    from surgecollapse.export.onnx import onnxruntime
    from surgecollapse.lab.training.evaluation import load_checkpointed_run

    run = load_checkpointed_run(place)
    run.store.close()
    x = run.data.x_validation[:16]
    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(compact_model(run.model.eval(), x).model, x, Path(folder) / "net.onnx")
        options = onnxruntime().SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime().InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    batch = {file.inputs[0]: x.numpy()}
    times = []
    for _ in range(50):
        began = time.process_time()  # what others take of the machine is not counted
        for _ in range(10):
            session.run(None, batch)
        times.append(time.process_time() - began)
    return 1e3 * statistics.median(times) / 10
