"""Takes readings: arms the sites when one is due, and reads everything back to the host in one go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.errors import warn_user
from surgecollapse.events import LayerReading, Reading
from surgecollapse.functional import predictive_entropy, target_entropy
from surgecollapse.observe.activations import ActivationReader
from surgecollapse.observe.pooling import Pool
from surgecollapse.observe.predictions import Output, class_scores
from surgecollapse.observe.probe import Probe
from surgecollapse.observe.split_units import SplitUnits
from surgecollapse.observe.unit_tracing import follow_units
from surgecollapse.protocols import Dataflow, UnitConnection
from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.generators import branch, next_branch
from surgecollapse.torch_utils.modules import canonical_name
from surgecollapse.torch_utils.shards import Shards, data_differs, is_sharded, local

_NUMBERS = ("grad_norm", "loss", "target_entropy")
"""What a reading holds beside its layers; averaged over ranks."""


class Observer:
    """Assembles one :class:`~surgecollapse.events.Reading` from the sites, the gradients and what was noted.

    Args:
        model: the unwrapped model.
        reader: the sites.
        probe: the probe batch.
        generator: CPU generator that draws rows.
        ranks: the processes that train the model together, whose readings are pooled.
        shards: sums over those of them that hold parts of its weights.
        dataflow: names the layers that produce the output.
        output: which entry of the model's output holds the class scores, see
            :func:`~surgecollapse.observe.predictions.class_scores`.
    """

    def __init__(
        self,
        model: nn.Module,
        reader: ActivationReader,
        probe: Probe,
        generator: torch.Generator,
        ranks: Ranks | None = None,
        shards: Shards | None = None,
        *,
        dataflow: Dataflow | None = None,
        output: Output = None,
    ) -> None:
        self._dataflow, self._output = dataflow, output
        self._model, self._reader, self._probe, self._generator = model, reader, probe, generator
        self._ranks = Ranks() if ranks is None else ranks
        self._shards = Shards() if shards is None else shards
        self._pool = Pool(self._ranks, reader.sites, reader.entropy)
        self._split = SplitUnits(reader.modules)
        self._loss: Tensor | float | None = None
        self._targets: Tensor | None = None
        self._norms: list[Tensor] = []
        self._part_norms: list[Tensor] = []
        self._warned = self._branched = False

    def note(self, loss: Tensor | float | None, targets: Tensor | None) -> None:
        """Keep this step's loss and labels until the step is over."""
        if loss is not None:
            self._loss = loss.detach() if isinstance(loss, Tensor) else float(loss)
        if targets is not None:
            self._targets = targets.detach()

    @property
    def noted(self) -> tuple[Tensor | float | None, Tensor | None]:
        """The loss and the labels that :meth:`note` was given in this step."""
        return self._loss, self._targets

    def arm(self) -> None:
        """Read the forward passes of the next step."""
        # Data-parallel ranks may have batches of different sizes, of which they draw differently. A checkpoint may be
        # taken now, and whoever resumes from it arms once more: the generator moves on only when this is read.
        self._branched = data_differs(self._model, self._ranks)
        self._reader.arm(next_branch(self._generator) if self._branched else self._generator)

    def disarm(self) -> None:
        """Remove every hook."""
        self._reader.disarm()

    def end_step(self) -> None:
        """Forget what belonged to this step."""
        self._loss = self._targets = None
        self._norms, self._part_norms = [], []

    def see_gradients(self, grads: Sequence[Tensor]) -> None:
        """Take the norms of these gradients into the reading, at least in float32, without a host sync.

        Of gradients that are split over processes, the norms of those parts that count here.
        """
        parts = [local(grad) for grad in grads if is_sharded(grad) and self._shards.counts_here(grad)]
        self._part_norms += _norms_of(parts)
        self._norms += _norms_of([grad for grad in grads if not is_sharded(grad)])

    def _grad_norm(self) -> Tensor | None:
        """Norm of all gradients that were seen, whole ones and parts."""
        found = self._norms
        if self._shards.sharded:
            device = next(self._model.parameters()).device
            parts = [norm.to(device, torch.float64).square() for norm in self._part_norms]
            square = torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64, device=device)
            found = [*found, self._ranks.totals([square])[0].sqrt()]
        return torch.stack([n.to(found[0].device, torch.float32) for n in found]).norm() if found else None

    def read(self, step: int, sparsity: float) -> Reading:
        """Reduce on the device, read back once, and disarm."""
        source, hidden = "batch", self._reader.hidden
        # A compiled forward runs no hooks that were added later; where parts are compiled, all layers are read alike.
        missing = not self._reader.captured or bool(hidden and self._probe.known)
        if self._together_if_sharded(missing):
            source, hidden = "probe" if self._pass_probe() else "none", ()
        extra: dict[str, Tensor] = {}
        norm = self._grad_norm()
        if norm is not None:
            extra["grad_norm"] = norm
        if isinstance(self._loss, Tensor):
            extra["loss"] = self._loss.float().mean()
        if self._targets is not None:
            extra["target_entropy"] = target_entropy(self._targets)
        layers, values, finite = self._together(extra) if not self._ranks.alone else self._here(extra)
        self._reader.disarm()
        if self._branched:
            branch(self._generator)
        reading = _assemble(step, sparsity, layers, values, source, finite=finite)
        if hidden and not self._warned:
            self._warned = True
            warn_user(
                f"compiled parts hide layers from readings, so that entropies are those of the others: "
                f"{', '.join(hidden)} were not read. Pass Readings(probe=<a batch, as the model is called>)"
            )
        if finite and reading.entropy is None and self._reader.sites and not self._warned:
            why = _why_not(reading)
            self._warned = why is not None
            if why is not None:
                warn_user(why)
        return reading

    def _together_if_sharded(self, flag: bool) -> bool:
        """Whether any rank needs a pass, where each pass needs all ranks."""
        return self._shards.anywhere(flag, next(self._model.parameters()).device) if self._shards.sharded else flag

    def _here(self, extra: Mapping[str, Tensor]) -> tuple[tuple[LayerReading, ...], dict[str, float], bool]:
        """Layers, further numbers and whether all activations were finite, in this process."""
        sites = self._reader.reduce()
        numbers = _to_host([*sites, *extra.values()])
        layers = self._reader.layers(numbers[: len(sites)])
        values = dict(zip(extra, numbers[len(sites) :], strict=True)) | self._noted_number()
        return layers, values, 4 * len(layers) == len(sites)

    def _noted_number(self) -> dict[str, float]:
        return {"loss": self._loss} if isinstance(self._loss, float) else {}

    def _together(self, extra: Mapping[str, Tensor]) -> tuple[tuple[LayerReading, ...], dict[str, float], bool]:
        """The same over all ranks: layers from sums of sufficient statistics, further numbers as means."""
        known = dict(zip(extra, _to_host(list(extra.values())), strict=True)) | self._noted_number()
        pooled = self._pool.read(self._split.joined(self._reader.samples), {name: known.get(name) for name in _NUMBERS})
        return pooled.layers, dict(pooled.values), pooled.finite

    def measure(self, name: str) -> float:
        """Take one measure of the net as it is now, on the probe batch; −∞ where it is not defined.

        A floor that cannot be measured is never met: a collapse then goes no deeper than its target.
        ``prediction_confidence`` is 1 − H(softmax(z))/ln K, the mean over rows (and positions). The class scores z of K
        classes are those of :func:`~surgecollapse.observe.predictions.class_scores`; of a single class it is not
        defined.
        """
        if name == "prediction_confidence":
            return self._prediction_confidence()
        value = getattr(_assemble(0, 0.0, self._probe_layers(), {}, "probe"), name)
        return -math.inf if value is None else float(value)

    def _prediction_confidence(self) -> float:
        self._reader.disarm()
        logits = self._probe_logits() if self._probe.known else None
        value = math.nan if logits is None else predictive_entropy(logits).item()
        if not self._ranks.alone:
            rows = 0.0 if logits is None or not math.isfinite(value) else float(len(logits))
            total = torch.tensor([0.0 if not rows else value * rows, rows], dtype=torch.float64)
            entropies, count = self._ranks.totals([total])[0].tolist()
            value = entropies / count if count else math.nan
        return 1.0 - value if math.isfinite(value) else -math.inf

    def _probe_logits(self) -> Tensor | None:
        scores = class_scores(self._probe.forward(self._model), self._model, self._dataflow, self._output)
        return None if scores is None else scores.float()

    def activation_energy(self) -> dict[str, float]:
        """Mean squared activation of each site on the probe batch; empty while no probe is known."""
        return {layer.layer: layer.energy for layer in self._probe_layers()}

    def unit_connections(self, weights: Sequence[str]) -> tuple[list[UnitConnection], dict[str, str]]:
        """Follow the units of these weights through the probe batch to the layers that take them in.

        Returns:
            What was found, and why there is nothing for the other weights.
        """
        self._reader.disarm()
        if not self._probe.known:
            return [], dict.fromkeys(weights, "cannot be followed: no probe batch is known")
        names = {id(p): canonical_name(name) for name, p in self._model.named_parameters()}
        found, lost = follow_units(names, weights, lambda: self._probe.forward(self._model))
        if self._ranks.alone:
            return found, lost
        *totals, ranks = self._ranks.totals([*(unit.scores for unit in found), torch.ones(())])
        means = [(total / ranks).to(unit.scores.dtype) for unit, total in zip(found, totals, strict=True)]
        return [replace(unit, scores=mean) for unit, mean in zip(found, means, strict=True)], lost

    def _probe_layers(self) -> tuple[LayerReading, ...]:
        self._pass_probe()
        layers, _, _ = self._here({}) if self._ranks.alone else self._together({})
        self._reader.disarm()
        return layers

    def _pass_probe(self) -> bool:
        """Read an eager pass of the probe batch; rows and positions are drawn alike every time."""
        self._reader.disarm()
        if not self._probe.known:
            return False
        self._reader.arm(torch.Generator().manual_seed(0), training=False)
        self._probe.forward(self._model)
        return self._reader.captured


_LEAST_ROWS = 4
"""Of the default entropy, which needs two differences of rows."""


def _norms_of(grads: Sequence[Tensor]) -> list[Tensor]:
    """Euclidean norms of gradients, at least in float32; complex and sparse ones too."""
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    real = [torch.view_as_real(grad) if grad.is_complex() else grad for grad in dense]
    found: list[Tensor] = []
    for dtype in (torch.float32, torch.float64):
        group = [grad for grad in real if torch.promote_types(grad.dtype, torch.float32) == dtype]
        if group:
            found += torch._foreach_norm(group, 2, dtype=dtype)
    return found


def _why_not(reading: Reading) -> str | None:
    """Say why a reading has no entropy, and what to do; ``None`` where all units are constant, as may pass."""
    if reading.source == "none":
        why = "no layer was seen to run in a training pass (compiled parts hide them), and no probe batch is known"
        what = "Pass Readings(probe=<a batch, as the model is called>)"
    elif (rows := max(layer.rows for layer in reading.layers)) < _LEAST_ROWS:
        sample = "is a single sample" if rows == 1 else f"has {rows} samples"
        why = f"the batch {sample} without positions, and entropy needs at least {_LEAST_ROWS} rows"
        what = "Train on larger batches, or choose a policy that does not read entropy"
    elif max(layer.units for layer in reading.layers) > 1:
        return None
    else:
        why, what = "the layers that are read have a single unit each", "Choose others with sites=…"
    return f"no activation entropy at step {reading.step}, so that policies that follow it do not act: {why}. {what}"


def _to_host(tensors: Sequence[Tensor]) -> list[float]:
    if not tensors:
        return []
    device = tensors[0].device
    numbers: list[float] = torch.stack([t.to(device, torch.float32) for t in tensors]).tolist()
    return numbers


def _assemble(
    step: int,
    sparsity: float,
    layers: tuple[LayerReading, ...],
    values: Mapping[str, float],
    source: str,
    *,
    finite: bool = True,
) -> Reading:
    entropies = [layer.entropy for layer in layers if layer.entropy is not None]
    known: dict[str, Any] = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return Reading(
        step=step,
        layers=layers,
        entropy=sum(entropies) / len(entropies) if entropies else None,
        on_off=min((layer.on_off for layer in layers), default=None),
        sparsity=sparsity,
        finite=finite and all(math.isfinite(values[key]) for key in ("grad_norm", "loss") if key in values),
        source=source,
        **known,
    )
