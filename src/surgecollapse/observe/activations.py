"""Activation readings: a few rows per site, reduced on the device, read by the host in one go.

*Sites* are the layers that own prunable weights. What is read is the output of the activation module that follows the
layer before the next such layer runs. Where the activation is functional, it is that of the layer itself. For attention
it is that of the whole module (hooks on ``MultiheadAttention.out_proj`` never fire).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.events import LayerReading
from surgecollapse.functional import ENTROPY, activation_energy, dead_units, on_off_entropy
from surgecollapse.torch_utils.compiled import is_compiled
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import (
    canonical_name,
    first_axis,
    has_channels_first,
    is_activation,
    is_recomputed,
    is_transformed,
    tensors_in,
)
from surgecollapse.torch_utils.shards import whole_tensor

ENOUGH = 32
"""Rows that a reading takes at least, where the batch has as many positions: several of a sample if samples are few."""


def find_sites(
    model: nn.Module, prunable: Collection[str], patterns: Sequence[str] | None = None
) -> dict[str, nn.Module]:
    """Map site names to modules: the owners of prunable parameters, or the modules that match ``patterns``.

    Args:
        model: the unwrapped model.
        prunable: canonical names of prunable parameters.
        patterns: shell patterns on module names that replace the default; their outputs are read as they are.

    Raises:
        ValueError: if a pattern matches no module.
    """
    modules = {canonical_name(name): module for name, module in model.named_modules()}
    if patterns is not None:
        sites: dict[str, nn.Module] = {}
        for pattern in patterns:
            hits = {name: module for name, module in modules.items() if name and fnmatchcase(name, pattern)}
            if not hits:
                raise ValueError(
                    f"sites: {pattern!r} matches no module; the model has {', '.join(filter(None, modules))}"
                )
            sites.update(hits)
        return sites
    owners: dict[str, nn.Module] = {}
    for name in prunable:
        owner = name.rpartition(".")[0]
        if ".parametrizations." in f".{owner}":  # the weight is computed from this one: the site is its user
            owner = f".{owner}".rpartition(".parametrizations.")[0].removeprefix(".")
        attention = [
            prefix
            for prefix, module in modules.items()
            if isinstance(module, nn.MultiheadAttention) and (owner == prefix or owner.startswith(prefix + "."))
        ]
        owner = attention[0] if attention else owner
        owners[owner] = modules[owner]
    return owners


def sample_rows(x: Tensor, *, rows: int, channels_first: bool, batch: int | None, generator: torch.Generator) -> Tensor:
    """Draw ``(n, units)`` with one row per sample: one random position of each image or sequence.

    Of fewer than :data:`ENOUGH` images or sequences several positions are drawn each, so that a batch of one is read
    too. A vector is one sample.

    Args:
        x: activations: ``(N, units)``; ``(N, units, *space)`` where ``channels_first``; ``(N, T, units)`` or, where the
            batch is found on axis 1, ``(T, N, units)``; ``(N * T, units)`` where the batch size divides it.
        rows: most rows to draw.
        channels_first: whether units are on axis 1.
        batch: number of samples in the model's input, where known.
        generator: CPU generator that chooses samples and positions.
    """
    x = x.detach()
    if x.ndim < 2:
        return x.reshape(1, -1)
    if channels_first:
        flat = x.flatten(2).movedim(1, -1) if x.ndim > 2 else x.unsqueeze(1)
    elif x.ndim == 2:
        samples = batch if batch and x.shape[0] % batch == 0 else x.shape[0]
        flat = x.reshape(samples, -1, x.shape[-1])
    else:
        if x.ndim == 3 and x.shape[0] != batch and x.shape[1] == batch:
            x = x.transpose(0, 1)
        flat = x.flatten(1, -2)
    samples, positions, _ = flat.shape
    chosen = torch.randperm(samples, generator=generator)[:rows]
    if positions <= 1:
        return flat[chosen.to(x.device, non_blocking=True), 0] if positions else flat.reshape(0, flat.shape[-1])
    each = min(positions, -(-ENOUGH // samples), rows // samples)
    if each > 1:
        several = torch.stack([torch.randperm(positions, generator=generator)[:each] for _ in range(samples)])
        return flat[chosen.to(x.device, non_blocking=True).unsqueeze(1), several.to(x.device)].flatten(0, 1)
    where = torch.randint(positions, (len(chosen),), generator=generator)
    return flat[chosen.to(x.device, non_blocking=True), where.to(x.device, non_blocking=True)]


class ActivationReader:
    """Reads the sites of a model: armed for one forward pass, reduced on the device, disarmed.

    Args:
        model: the unwrapped model.
        sites: name → module.
        entropy: name of the entropy form, or a function ``(rows, units) → 0-dim tensor``.
        rows: samples per reading.
        follow: whether to read the activation module that follows a site instead of the site.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Mapping[str, nn.Module],
        *,
        entropy: str | Callable[[Tensor], Tensor] = "renyi2",
        rows: int = 128,
        follow: bool = True,
    ) -> None:
        self._model, self._sites, self._rows, self._follow = model, dict(sites), rows, follow
        self.entropy = entropy_form(entropy)
        self._hooks = Hooks()
        self._samples: dict[str, Tensor] = {}
        self._read_forward: set[str] = set()
        self._pending: tuple[str, torch.Size, bool] | None = None
        self._batch: int | None = None
        self._generator: torch.Generator | None = None
        self._training = True
        self._reading: bool | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the layers that are read."""
        return tuple(self._sites)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The layers that are read, by name."""
        return dict(self._sites)

    @property
    def armed(self) -> bool:
        """Whether the next forward pass will be read."""
        return len(self._hooks) > 0

    @property
    def captured(self) -> bool:
        """Whether a forward pass has been read since arming."""
        return bool(self._samples)

    def arm(self, generator: torch.Generator, *, training: bool = True) -> None:
        """Read every forward pass from now on; a later pass replaces an earlier one (gradient accumulation).

        What gradient checkpointing computes again in the backward pass is read only where it was not read before.

        Args:
            generator: CPU generator that chooses rows.
            training: read training passes alone, so that whoever evaluates in between changes no reading; otherwise
                read any pass.
        """
        if self.armed:
            return
        self._generator, self._training = generator, training
        self._hooks.before(self._model, self._begin)
        self._hooks.after(self._model, lambda _m, _a, _out: self._end())
        for name, module in self._sites.items():
            self._hooks.after(module, lambda m, _a, out, name=name: self._on_site(name, m, out))
        if self._follow:
            for module in self._model.modules():
                if is_activation(module):
                    self._hooks.after(module, lambda _m, _a, out: self._on_activation(out))

    def disarm(self) -> None:
        """Remove all hooks and forget what was read."""
        self._hooks.remove()
        self._samples.clear()
        self._read_forward.clear()
        self._end()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._reading = not self._training or (model.training and torch.is_grad_enabled())
        self._batch = first_axis(next(tensors_in([*args, kwargs]), None))
        self._pending = None

    def _end(self) -> None:
        self._reading, self._pending = None, None

    def _on_site(self, name: str, module: nn.Module, output: Any) -> None:
        x = next(tensors_in(output), None)
        reading = self._reading
        if reading is None:  # a part of the model was called by itself, or is run again in the backward pass
            reading = not self._training or (module.training and torch.is_grad_enabled())
        if x is None or not x.is_floating_point() or not reading or is_transformed():
            return
        x = whole_tensor(x)
        if x.is_nested:  # samples of different lengths: each position is a row
            x = torch.cat([part.reshape(-1, part.shape[-1]) for part in x.detach().unbind()])
        if x.layout is not torch.strided:
            return
        follows = None if isinstance(module, nn.MultiheadAttention) else x.shape
        batch_first = getattr(module, "batch_first", None)
        if isinstance(batch_first, bool) and x.ndim == 3:  # attention or recurrent: it knows which axis is the batch
            x = x if batch_first else x.transpose(0, 1)
            self._batch = x.shape[0]
        first = has_channels_first(module)
        self._take(name, x, first)
        self._pending = None if follows is None else (name, follows, first)

    def _on_activation(self, output: Any) -> None:
        x = next(tensors_in(output), None)
        if self._pending is None or x is None or x.is_nested or x.shape != self._pending[1]:
            return
        name, _, first = self._pending
        self._take(name, whole_tensor(x), first)
        self._pending = None

    def _take(self, name: str, x: Tensor, channels_first: bool) -> None:
        assert self._generator is not None
        again = is_recomputed()
        if again and name in self._read_forward:  # gradient checkpointing must not change which rows are drawn
            return
        (self._read_forward.discard if again else self._read_forward.add)(name)
        if x.numel():
            self._samples[name] = sample_rows(
                x, rows=self._rows, channels_first=channels_first, batch=self._batch, generator=self._generator
            ).clone()

    @property
    def hidden(self) -> tuple[str, ...]:
        """Sites that were not read and lie in a compiled part, which runs no hooks that were added later."""
        unread = [name for name in self._sites if name not in self._samples]
        if not unread:
            return ()
        inside = {module for part in self._model.modules() if is_compiled(part) for module in part.modules()}
        return tuple(name for name in unread if self._sites[name] in inside)

    @property
    def samples(self) -> dict[str, Tensor]:
        """What was read, ``(rows, units)`` by site, in the order of the sites."""
        return {name: self._samples[name] for name in self._sites if name in self._samples}

    def reduce(self) -> list[Tensor]:
        """Reduce what was read to four numbers a site, still on the device, in the order of :meth:`layers`."""
        numbers: list[Tensor] = []
        for x in self._samples.values():
            numbers += [self.entropy(x), on_off_entropy(x), activation_energy(x), dead_units(x)]
        return numbers

    def layers(self, numbers: Sequence[float]) -> tuple[LayerReading, ...]:
        """Name the numbers that :meth:`reduce` gave, once the host has them; a site that is not finite is left out."""
        found = []
        for i, (name, x) in enumerate(self._samples.items()):
            entropy, on_off, energy, dead = numbers[4 * i : 4 * i + 4]
            if not (math.isfinite(on_off) and math.isfinite(energy)):
                continue  # NaN or inf activations have no entropy; the reading as a whole says that it is not finite
            found.append(
                LayerReading(
                    layer=name,
                    entropy=entropy if entropy == entropy else None,  # NaN: undefined (a single unit)
                    on_off=on_off,
                    energy=energy,
                    dead=dead,
                    units=x.shape[1],
                    rows=x.shape[0],
                )
            )
        order = {name: i for i, name in enumerate(self._sites)}
        return tuple(sorted(found, key=lambda layer: order[layer.layer]))


def entropy_form(entropy: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Look up an entropy form by name.

    Raises:
        ValueError: for an unknown name, listing the valid ones.
    """
    if callable(entropy):
        return entropy
    if entropy not in ENTROPY:
        raise ValueError(f"unknown entropy form {entropy!r}: expected one of {', '.join(ENTROPY)}, or a function")
    return ENTROPY[entropy]
