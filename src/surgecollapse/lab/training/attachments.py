"""What is attached to the net and the optimizer of a run, as its configuration asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgecollapse.attaching.attach import attach
from surgecollapse.attaching.averaging import average_weights
from surgecollapse.attaching.monitoring import watch_training
from surgecollapse.attaching.row_norms import clip_rows
from surgecollapse.attaching.sharpness import single_step_sam
from surgecollapse.attaching.transforms import transform_gradients
from surgecollapse.controller.options import Monitoring, Readings, Target, Updates
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config.method import PlainTraining
from surgecollapse.lab.training.optim import bounded_rows, make_transforms
from surgecollapse.policies import POLICIES, NoOp, make_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from surgecollapse.attaching.averaging import AveragedWeights
    from surgecollapse.attaching.monitoring import WatchedTraining
    from surgecollapse.attaching.row_norms import ClippedRows
    from surgecollapse.attaching.sharpness import SharpnessAware
    from surgecollapse.attaching.transforms import TransformedGradients
    from surgecollapse.controller.controller import Controller
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.config.method import Controlled
    from surgecollapse.protocols import Policy, Recorder


@dataclass(frozen=True, kw_only=True)
class Attached:
    """The parts that are there; a run has either a controller or, with policy ``none``, what does without one."""

    controller: Controller | None = None
    transforms: TransformedGradients | None = None
    watched: WatchedTraining | None = None
    clipped: ClippedRows | None = None
    sharpness: SharpnessAware | None = None
    averaged: AveragedWeights | None = None

    def note(self, loss: Tensor, targets: Tensor | None) -> None:
        """Tell whoever asks for it this step's loss and classes, before the optimizer's step."""
        if self.controller is not None:
            self.controller.note(loss=loss, targets=targets)
        elif self.watched is not None:
            self.watched.note(loss=loss, targets=targets)

    def remove(self) -> None:
        """Take everything off again."""
        if self.controller is not None:
            self.controller.detach()
        for part in (self.transforms, self.watched, self.clipped, self.sharpness, self.averaged):
            if part is not None:
                part.remove()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the optimizer's state, in which controller and transforms travel."""
        return {
            "watched": None if self.watched is None else self.watched.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, after model and optimizer.

        Those of version 0.1 have the controller's and the transforms' state apart, and may know nothing of the monitors
        of a run without a controller.
        """
        for name, part in (("controller", self.controller), ("transforms", self.transforms), ("watched", self.watched)):
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])


def attached_to(
    model: nn.Module,
    optimizer: Optimizer,
    config: RunConfig,
    *,
    total_steps: int,
    criterion: Callable[[Any, Tensor], Tensor],
    recorder: Recorder,
    process_group: Any = None,
) -> Attached:
    """Attach what the configuration asks for.

    Args:
        model: the net.
        optimizer: what trains it.
        config: the run.
        total_steps: of the whole run.
        criterion: its loss, for monitors that need one.
        recorder: takes the events.
        process_group: the processes that train the net together.

    Raises:
        ConfigError: if options of the policy have values of the wrong type.
        ValueError: for options out of range, or unknown names.
    """
    transforms = make_transforms(config, model)
    monitors = _monitors(config)
    method = config.method
    budget = method.monitor_budget if method.monitor_budget < 1 else None
    controller = handle = watched = sharpness = None
    if config.transforms.sam_rho:  # first: what follows looks at the weights without their perturbation
        sharpness = single_step_sam(model, optimizer, rho=config.transforms.sam_rho)
    if isinstance(method, PlainTraining):
        if monitors:
            watched = watch_training(
                model,
                optimizer,
                monitors=monitors,
                recorders=(recorder,),
                every=method.every,
                budget=budget,
                criterion=criterion,
            )
        if transforms:
            handle = transform_gradients(optimizer, transforms, recorders=(recorder,), every=config.method.every)
    else:
        confidence = any(part.rule().series == "prediction_confidence" for part in config.run.rules)
        controller = attach(
            model,
            optimizer,
            Target(
                0.0 if method.ends_dense else method.sparsity,
                pattern=method.pattern,
                allocation=method.allocation,
                min_density=method.min_density,
            ),
            total_steps,
            policy=_policy(method),
            updates=Updates(
                saliency=method.saliency,
                growth=method.growth,
                regrow_init=method.regrow_init,
                noise_energy_budget=method.noise_energy_budget,
                optimizer_state=method.optimizer_state,
            ),
            readings=Readings(every=method.every, entropy=method.entropy, confidence=confidence),
            monitors=Monitoring(monitors, budget=budget, criterion=criterion),
            transforms=transforms,
            recorders=(recorder,),
            seed=config.run.seed,
            process_group=process_group,
        )
    clipped = averaged = None
    if config.transforms.max_row_norm is not None:  # before the average, which is to be one of bounded weights
        clipped = clip_rows(optimizer, config.transforms.max_row_norm, parameters=bounded_rows(model))
    if config.transforms.ema_decay:
        averaged = average_weights(model, optimizer, decay=config.transforms.ema_decay, controller=controller)
    return Attached(
        controller=controller,
        transforms=handle,
        watched=watched,
        clipped=clipped,
        sharpness=sharpness,
        averaged=averaged,
    )


def _monitors(config: RunConfig) -> list[str]:
    names = [name.strip() for name in config.method.monitors.split(",")]
    return [] if names == ["none"] else names


def _policy(method: Controlled) -> Policy:
    """The policy; at sparsity 0, where there is nothing to prune, one that does nothing."""
    try:
        policy = make_policy(method.policy, **method.policy_options)
    except TypeError as error:
        raise ConfigError(f"policy_options of {method.policy!r} have a value of the wrong type: {error}") from error
    prunes = method.policy in POLICIES and method.policy != "redo"
    return NoOp() if prunes and method.sparsity == 0 else policy
