"""The one line that adds surge-collapse to a training loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from surgecollapse.controller.controller import Controller
from surgecollapse.controller.options import Masks, Monitoring, Options, Readings, Target, Updates
from surgecollapse.observe.monitors import Monitors
from surgecollapse.protocols import GradientTransform, Policy, Recorder
from surgecollapse.record import CommandQueue


def attach(
    model: nn.Module,
    optimizer: Any,
    sparsity: float | Target,
    total_steps: int | None = None,
    *,
    policy: str | Policy = "cyclic_pruning",
    updates: Updates = Updates(),
    readings: Readings = Readings(),
    monitors: Monitors | Monitoring = (),
    transforms: Sequence[GradientTransform] = (),
    recorders: Sequence[Recorder] = (),
    masks: Masks = None,
    commands: CommandQueue | str | Path | None = None,
    seed: int = 0,
    hooks: bool = True,
    compile: bool = False,
    process_group: Any = None,
) -> Controller:
    """Attach surge-collapse to a model and the optimizer that trains it: one line in any loop.

    What the caller gives is never overruled; ``None`` in an option group leaves that choice to the policy.

    Args:
        model: the module that the loop calls; ``torch.compile`` and DDP wrappers are looked through.
        optimizer: the optimizer whose ``step()`` the loop calls, or a list of them, stepped in that order.
        sparsity: share of the prunable weights that end at exactly zero, in [0, 1). A
            :class:`~surgecollapse.controller.options.Target` also says which weights, in which pattern, and how zeros
            are spread over layers.
        total_steps: optimizer steps of the whole run; scheduled policies (the default one) need it.
        policy: a key of :data:`surgecollapse.policies.POLICIES`, a name that a package registered, or a policy object.
        updates: how weights are pruned and regrown, see :class:`~surgecollapse.controller.options.Updates`.
        readings: how the state of training is read, see :class:`~surgecollapse.controller.options.Readings`.
        monitors: what to measure beside the readings that decide: ``default``, names (see
            :data:`surgecollapse.observe.monitors.MONITORS`), objects, a sequence of these, or
            :class:`~surgecollapse.controller.options.Monitoring`, which also bounds their cost. Monitors never affect
            training.
        transforms: gradient transforms, applied in order once a step, after unscaling and clipping, before masking.
        recorders: objects with ``record(event)``.
        masks: ``"zeros"``: the zeros that the weights have are the first mask, and stay closed unless the policy
            regrows them.
        commands: the ``run.db`` (see :class:`~surgecollapse.record.RunStore`) from which to take the commands that
            were sent to the run from a page or a terminal, at step boundaries.
        seed: of the library's own generators.
        hooks: ``False``: the loop calls :meth:`Controller.before_step` and :meth:`Controller.after_step` itself.
        compile: put the masks on large weights in one compiled pass each, with ``torch.compile``. The first masked step
            takes seconds. Masks take a quarter of the memory and 0.9 of the time, and the values are the same. It is
            for nets of millions of weights on a CPU. Without a C++ compiler there is one warning, and plain operations
            do the work. On a GPU it made a step slower.
        process_group: the ranks that train this model together, each on data of its own; default: those of the
            ``DistributedDataParallel`` around the model. Their readings are pooled, so that every rank takes the same
            decision. Without either no collective is ever called.

    Returns:
        The controller; a context manager that detaches on exit.

    Raises:
        ValueError: for options out of range, unknown names, a model with nothing to prune, LBFGS, a second attach.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> controller = surgecollapse.attach(
    ...     model, optimizer, sparsity=0.75, total_steps=200, readings=surgecollapse.Readings(every=5)
    ... )
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     torch.nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
    ...     optimizer.step()
    >>> controller.finalize()
    >>> int((model[0].weight != 0).sum()), controller.frozen
    (64, True)
    """
    options = Options(
        target=sparsity if isinstance(sparsity, Target) else Target(sparsity),
        total_steps=total_steps,
        policy=policy,
        updates=updates,
        readings=readings,
        monitoring=monitors if isinstance(monitors, Monitoring) else Monitoring(monitors),
        transforms=transforms,
        recorders=recorders,
        masks=masks,
        commands=commands,
        seed=seed,
        hooks=hooks,
        compile=compile,
        process_group=process_group,
    )
    return Controller(model, optimizer, options)
