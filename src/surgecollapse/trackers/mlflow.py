"""MLflow: a run in a local SQLite file, or on the server that ``MLFLOW_TRACKING_URI`` names."""

from __future__ import annotations

import os
import re
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.trackers.protocol import numbers, plain
from surgecollapse.trackers.registry import tracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

EXPERIMENT = "surgecollapse"
_MOST = 1000
"""Numbers that MLflow takes at once."""
_FOREIGN = re.compile(r"[^\w\-. :/]")


@tracker("mlflow")
class MLflow:
    """A run of the experiment ``surgecollapse``; MLflow's own telemetry is switched off.

    MLflow has no histograms: they are kept as JSON among the artifacts.

    Args:
        name: of the run.
        config: its configuration.
        folder: of ``mlflow.db`` and the artifacts; not used where ``MLFLOW_TRACKING_URI`` is set.

    Raises:
        ModuleNotFoundError: if mlflow (or mlflow-skinny) is not installed.
    """

    package = "mlflow"

    @staticmethod
    def place(run: Path) -> Path:
        """Where its files of a run are by default."""
        return run.parent / "mlruns"

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        entities: Any = import_module("mlflow.entities")
        tracking: Any = import_module("mlflow.tracking")
        self._metric = entities.Metric
        asked, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not asked:
            folder.mkdir(parents=True, exist_ok=True)
            artifacts = (folder.resolve() / "artifacts").as_uri()
        self._where = asked or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = tracking.MlflowClient(tracking_uri=self._where)
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, artifacts)
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        params = [entities.Param(key, str(value)[:6000]) for key, value in plain(config).items()]
        self._client.log_batch(self._run, params=params)
        self._waiting: list[Any] = []
        self._texts: list[str] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics, a thousand at a time."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(_FOREIGN.sub("_", tag), value, now, step) for tag, value in values.items()]
        if len(self._waiting) >= _MOST:
            self._send()

    def text(self, step: int, title: str, text: str) -> None:
        """A line of the artifact ``events.md``."""
        self._texts.append(f"- step {step}, {title}: {text}")

    def histogram(self, step: int, name: str, edges: NDArray[Any], counts: NDArray[Any]) -> None:
        """The artifact ``histograms/NAME-STEP.json``."""
        found = {"step": step, "edges": edges.tolist(), "counts": counts.tolist()}
        self._client.log_dict(self._run, found, f"histograms/{_FOREIGN.sub('_', name)}-{step}.json")

    def picture(self, step: int, name: str, path: Path) -> None:
        """An artifact beside the others of its name's first part."""
        self._client.log_artifact(self._run, str(path), f"{name.rpartition('/')[0]}/step-{step}".lstrip("/"))

    def back(self, step: int) -> None:
        """Nothing can be taken back; the events say that it happened."""

    def finish(self, summary: Mapping[str, Any]) -> str:
        """The final numbers as metrics, and the events as one text."""
        self.scalars(0, {f"final/{name}": value for name, value in numbers(summary).items()})
        self._send()
        if self._texts:
            self._client.log_text(self._run, "\n".join(self._texts) + "\n", "events.md")
        self._client.set_terminated(self._run, "FINISHED" if summary else "KILLED")
        return f"mlflow ui --backend-store-uri {self._where}"

    def _send(self) -> None:
        for start in range(0, len(self._waiting), _MOST):
            self._client.log_batch(self._run, metrics=self._waiting[start : start + _MOST])
        self._waiting.clear()
