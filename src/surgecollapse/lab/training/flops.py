"""What a run costs in arithmetic: densities over its steps, and floating-point operations relative to dense training.

The operations are what an engine that skips zeros would need, not what this hardware did: they say how methods compare,
and promise no speed. Counted are the multiplications by weights, as usual (Evci et al. 2020, arXiv 1911.11134, app. H);
biases, norms, activations, attention scores, readings and masking are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.functional.criteria.registry import needs_gradient
from surgecollapse.lab.config.method import Controlled
from surgecollapse.lab.models.registry import Model
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.small_dense import prunable_of, with_small_widths
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.record.operations import stretch_operations
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from surgecollapse.controller.controller import Controller
    from surgecollapse.events import Intervention
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.data.dataset import Data
    from surgecollapse.record import RunStore

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def multiplications(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Multiplications by each weight tensor in one forward pass of one sample.

    A weight is used once for every place of its module's output: N times the places, with N its number of values.
    Embeddings are look-ups and multiply nothing.

    Args:
        model: any model of linear, convolution, attention and recurrent modules; left in the mode that it was in.
        x: samples (n, …); one is used.

    Returns:
        By parameter name, for all parameters with two dimensions or more; a weight of a module that did not run is
        not in it.

    >>> net = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(40, 2))
    >>> multiplications(net, torch.zeros(5, 1, 10))
    {'0.weight': 120, '2.weight': 80}
    """
    found: dict[str, int] = {}
    hooks = []
    for prefix, module in model.named_modules():
        own: dict[str, Tensor] = {
            f"{prefix}.{name}" if prefix else name: weight
            for name, weight in module.named_parameters(recurse=False)
            if weight.ndim >= 2
        }
        if isinstance(module, nn.MultiheadAttention):
            # Its forward pass uses the output projection without calling it.
            own[f"{prefix}.out_proj.weight" if prefix else "out_proj.weight"] = module.out_proj.weight
        if own and not isinstance(module, nn.Embedding):
            hooks.append(module.register_forward_hook(_counter(own, found)))
    try:
        with evaluating(model):
            model(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _counter(own: Mapping[str, Tensor], found: dict[str, int]) -> Any:
    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor):  # of a module of the user's own that holds parameters beside others
            return
        places = first.numel() // first.shape[1 if isinstance(module, _CONVOLUTIONS) else -1]
        for name, weight in own.items():
            each = places
            if name.endswith("in_proj_weight"):  # a third makes queries, the rest keys and values
                each = (places + 2 * (inputs[-1].numel() // inputs[-1].shape[-1])) / 3
            found[name] = found.get(name, 0) + round(weight.numel() * each)

    return count


def segments(
    interventions: Sequence[Intervention], sizes: Mapping[str, int], steps: int
) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Stretches of a run between two changes of the mask.

    Args:
        interventions: of the whole run, in order; one after step s holds from step s + 1 on.
        sizes: values of each prunable parameter.
        steps: optimizer steps of the run.

    Yields:
        First step, last step, and the share of open weights by parameter.
    """
    open_shares = dict.fromkeys(sizes, 1.0)
    since = 0
    for event in interventions:
        if event.layers:
            if event.step > since:
                yield since + 1, event.step, dict(open_shares)
                since = event.step
            open_shares.update({layer.name: layer.live / layer.size for layer in event.layers if layer.name in sizes})
    if steps > since:
        yield since + 1, steps, open_shares


def mean_density(interventions: Sequence[Intervention], sizes: Mapping[str, int], steps: int) -> float:
    """Mean over the steps of a run of the share of prunable weights that are open; 1 where nothing is prunable.

    >>> from surgecollapse.events import Intervention, LayerChange
    >>> half = LayerChange(name="w", size=10, live=5, energy_before=1.0, energy_after=1.0)
    >>> event = Intervention(
    ...     step=60, kind="collapse", phase="sparse", reason="", sparsity_before=0.0, sparsity_after=0.5, layers=(half,)
    ... )
    >>> mean_density([event], {"w": 10}, steps=100)
    0.8
    """
    size = sum(sizes.values())
    if not size or not steps:
        return 1.0
    total = sum(
        (last - first + 1) * sum(share * sizes[name] for name, share in shares.items())
        for first, last, shares in segments(interventions, sizes, steps)
    )
    return total / (size * steps)


def training_flops(
    interventions: Sequence[Intervention],
    sizes: Mapping[str, int],
    counts: Mapping[str, int],
    steps: int,
    dense_gradients: frozenset[int] = frozenset(),
) -> float:
    """Operations of a whole training run over those of a dense one of as many steps.

    Σ_t Σ_l c_l·(2·d_l(t) + g_l(t)) / (3·T·Σ_l c_l), with c_l multiplications by layer l. The density d_l(t) at step t
    (1 for what is not pruned) counts for the forward pass and for the gradient of the inputs. For the gradient of the
    weights g_l(t) counts, which is d_l(t), or 1 on the steps whose dense gradient is taken for growth.

    Args:
        interventions: of the whole run, in order.
        sizes: values of each prunable parameter.
        counts: multiplications by each weight tensor, of :func:`multiplications`.
        steps: optimizer steps of the run, T.
        dense_gradients: steps whose dense gradient is taken.

    >>> training_flops([], {"w": 10}, {"w": 10, "head": 5}, steps=100)
    1.0
    """
    dense = sum(counts.values())
    if not dense or not steps:
        return 1.0
    total = 0.0
    for first, last, shares in segments(interventions, sizes, steps):
        length = last - first + 1
        taken = sum(first <= step <= last for step in dense_gradients)
        total += stretch_operations(counts, shares, length, taken)
    return total / (3 * steps * dense)


@torch.no_grad()
def inference_flops(model: nn.Module, counts: Mapping[str, int]) -> float:
    """Multiplications of a forward pass that skips zero weights, over those of the dense one.

    >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    >>> _ = net[0].weight.data.copy_(torch.eye(4)), net[1].weight.data.fill_(1.0)
    >>> inference_flops(net, multiplications(net, torch.zeros(1, 4)))
    0.4
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    live = {name: int(torch.count_nonzero(weights[name])) / weights[name].numel() for name in counts}
    dense = sum(counts.values())
    return sum(counts[name] * live[name] for name in counts) / dense if dense else 1.0


def dense_gradient_steps(interventions: Sequence[Intervention], readings: Sequence[int], window: int) -> frozenset[int]:
    """Steps on which the dense gradient is taken: the last ``window`` before each reading, until the mask is final.

    Args:
        interventions: of the whole run.
        readings: steps of its readings.
        window: how many steps a growth signal takes in; 0 for random growth.

    >>> sorted(dense_gradient_steps([], [50, 100], window=2))
    [49, 50, 99, 100]
    """
    end = min((event.step for event in interventions if event.kind == "freeze"), default=None)
    return frozenset(
        step
        for reading in readings
        for step in range(max(1, reading - window + 1), reading + 1)
        if end is None or step <= end
    )


def cost_summary(
    config: RunConfig, model: nn.Module, data: Data, controller: Controller | None, store: RunStore, steps: int
) -> dict[str, float]:
    """What a finished run cost.

    Args:
        config: the run.
        model: as it ended.
        data: what it read.
        controller: what masked it, if anything did.
        store: the record of the run.
        steps: its optimizer steps.

    Returns:
        ``mean_density`` of the prunable weights over the steps; ``flops_training`` and ``flops_inference``, relative to
        dense (:func:`training_flops`, :func:`inference_flops`). Of a network that was shrunk, all are relative to the
        one before.
    """
    interventions = store.interventions()
    sizes = {} if controller is None else {name: mask.numel() for name, mask in controller.masks.items()}
    counts = multiplications(model, data.x_test)
    taken: frozenset[int] = frozenset()
    if controller is not None:
        window = _window(config, controller)
        taken = dense_gradient_steps(interventions, [reading.step for reading in store.readings()], window)
    section, prunable, used = config.model, 1.0, 1.0
    if isinstance(section, Model) and section.shrink_to_sparsity:
        prunable, used = _shrunk(config, section, data, counts)
    return {
        "mean_density": prunable * mean_density(interventions, sizes, steps),
        "flops_training": used * training_flops(interventions, sizes, counts, steps, taken),
        "flops_inference": used * inference_flops(model, counts),
    }


def _shrunk(config: RunConfig, section: Model, data: Data, counts: Mapping[str, int]) -> tuple[float, float]:
    """Prunable weights and multiplications of a shrunk network over those of the one before."""
    full = section.model_copy(update={"shrink_to_sparsity": 0.0})
    model = build_model(config.model_copy(update={"model": full}), data).to(data.x_test.device)
    before = multiplications(model, data.x_test)
    small = prunable_of(with_small_widths(section, data), data)[0]
    return small / prunable_of(full, data)[0], sum(counts.values()) / sum(before.values())


def step_costs(config: RunConfig, data: Data, controller: Controller | None) -> dict[str, Any]:
    """What a step of a run costs while everything is open, for those who count while it trains.

    Args:
        config: the run.
        data: what it trains on.
        controller: what masks it, if anything does.

    Returns:
        ``multiplications`` by each weight tensor for one sample (of a net built anew, as the run's own has hooks).
        ``rows``, samples in a step on average. ``window``, steps before a reading whose dense gradient is taken.
    """
    samples = data.train_size
    per_epoch = -(-samples // min(config.run.batch_size or samples, samples))
    window = 0
    if controller is not None:
        window = _window(config, controller)
    counts = multiplications(build_model(config, data).to(data.x_train.device), data.x_train)
    return {"multiplications": counts, "rows": samples / per_epoch, "window": window}


def _window(config: RunConfig, controller: Controller) -> int:
    chosen = config.method
    assert isinstance(chosen, Controlled)
    if getattr(controller.policy, "dense_backward", False):  # on every step until the mask is final
        return controller.plan.every
    growth = chosen.growth or getattr(controller.policy, "growth", "ema_gradient")
    return growth_window(str(growth), chosen.saliency, config.optimizer.momentum)


def growth_window(growth: str, saliency: str = "magnitude", momentum: float = 0.9) -> int:
    """Steps before a reading whose dense gradient the criteria take in, as the engine does.

    >>> growth_window("random"), growth_window("gradient"), growth_window("ema_gradient")
    (0, 1, 22)
    """
    if growth == "random" and not needs_gradient(saliency):
        return 0
    decay = {"gradient": 0.0, "momentum": momentum}.get(growth, 0.9)
    return DenseGradient(decay).window
