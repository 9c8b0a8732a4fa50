"""Surge-collapse in the ``Trainer`` of PyTorch Lightning: one callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from surgecollapse.attaching.attach import attach
from surgecollapse.controller.controller import Controller
from surgecollapse.controller.options import Target
from surgecollapse.torch_utils.step_hooks import parameters_of


class SurgeCollapse(pl.Callback):
    """Prune the model that a ``Trainer`` trains: ``Trainer(callbacks=[SurgeCollapse(sparsity=0.8)])``.

    It attaches before the checkpoint's optimizers are loaded, so that ``fit(ckpt_path=...)`` goes on bitwise: the state
    lies in the optimizer's own state. Automatic and manual optimization, several optimizers, accumulation, clipping and
    mixed precision work as they are. Of several networks (a GAN), each that is pruned has a callback of its own, with
    ``module=``. The optimizers that step none of its parameters are left alone. ``sparsity`` and ``activation_entropy``
    are logged at every reading. At the end the mask is exact, and the controller is detached. With automatic
    optimization the controller is told each loss, and warns where training does not recover.

    With ``recorders=[store]`` and ``commands=store.path`` a run is on the live page and takes commands; the trainer
    itself carries out ``stop`` and ``checkpoint``.

    Args:
        sparsity: share of the prunable weights that end at zero, or a :class:`~surgecollapse.Target`.
        module: name of the submodule to prune, as in ``named_modules``; it must be called in the training step.
            Default: the innermost one that holds all trained parameters.
        total_steps: optimizer steps of the run; default: the trainer's ``estimated_stepping_batches``.
        **options: of :func:`surgecollapse.attach`.

    Attributes:
        controller: the controller, from the beginning of training on.
    """

    def __init__(
        self,
        sparsity: float | Target = 0.9,
        *,
        module: str | None = None,
        total_steps: int | None = None,
        **options: Any,
    ) -> None:
        self._target = sparsity if isinstance(sparsity, Target) else Target(sparsity)
        self._module, self._total_steps, self._options = module, total_steps, options
        self.controller: Controller | None = None
        self._logged = 0
        self._save = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to the trainer's optimizers."""
        total = self._total_steps if self._total_steps is not None else trainer.estimated_stepping_batches
        if total == float("inf"):
            raise ValueError("the trainer has no end (max_epochs=-1): pass SurgeCollapse(total_steps=...)")
        model = pl_module.get_submodule(self._module) if self._module is not None else called_module(pl_module)
        if model is pl_module and type(model).forward is pl.LightningModule.forward:
            parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
            raise ValueError(
                f"{type(model).__name__} has no forward() and several parts, so that no one module is seen to run: "
                f"pass SurgeCollapse(module=...), one of {', '.join(map(repr, parts))} (one callback for each), or "
                "give it a forward() that the training step calls"
            )
        own = {id(p) for p in model.parameters()}
        steps_it = [o for o in trainer.optimizers if any(id(p) in own for p in parameters_of(o))]
        given = steps_it or trainer.optimizers
        optimizers = given[0] if len(given) == 1 else given
        self._logged = 0
        self.controller = attach(model, optimizers, self._target, int(total), **self._options)
        self._save = False
        self.controller.command_loop.handlers["checkpoint"] = self._ask_to_save

    def _ask_to_save(self, _: Any) -> str:
        self._save = True
        return "the trainer saves a checkpoint after this batch"

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Tell the controller the loss, where there is one a step."""
        if self.controller is None or not pl_module.automatic_optimization:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        found = loss.detach() * trainer.accumulate_grad_batches
        # Scaling a one instead of asking for the scale leaves the host ahead of the device.
        self.controller.note(found if scaler is None else found / scaler.scale(loss.new_ones(())))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Do what people asked for, and log the last reading, once."""
        controller = self.controller
        if self._save:
            self._save = False
            trainer.save_checkpoint(f"{trainer.default_root_dir}/surgecollapse-step={trainer.global_step}.ckpt")
        if controller is not None and controller.stopping:
            trainer.should_stop = True
        if controller is None or not controller.readings or controller.readings[-1].step == self._logged:
            return
        reading = controller.readings[-1]
        self._logged = reading.step
        pl_module.log("sparsity", controller.sparsity)
        if reading.entropy is not None:
            pl_module.log("activation_entropy", reading.entropy)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the mask exact."""
        if self.controller is not None:
            self.controller.finalize()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Mask what another callback has put in since, as averaged weights (SWA, EMA)."""
        if self.controller is not None:
            self.controller.finalize()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach the controller."""
        if self.controller is not None and stage == "fit":
            self.controller.detach()


def called_module(module: nn.Module) -> nn.Module:
    """The innermost module that holds all trained parameters: the part of a ``LightningModule`` that is really called.

    A training step often calls ``self.net(x)`` and never ``self(x)``, so that hooks on the outer module never fire.

    >>> outer = pl.LightningModule()
    >>> outer.net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> called_module(outer) is outer.net
    True
    """
    while isinstance(module, pl.LightningModule):
        trained = {id(p) for p in module.parameters() if p.requires_grad}
        inner = [child for child in module.children() if trained <= {id(p) for p in child.parameters()}]
        if not trained or len(inner) != 1 or isinstance(inner[0], nn.ModuleList | nn.ModuleDict):
            return module
        module = inner[0]
    return module
