"""The entropy pump: controlled noise on what goes into the net, in training mode only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.act.randomness import Generators
from surgecollapse.torch_utils.generators import branch
from surgecollapse.torch_utils.module_hooks import Hooks
from surgecollapse.torch_utils.modules import is_recomputed, is_undisturbed, map_tensors, tensors_in


class InputNoise:
    """Adds Gaussian noise to the model's first input.

    Floating-point input: x + σ·ε, ε ~ N(0, 1), in the units of the input. The published 0.05, 0.1 and 0.2 are for
    standardized inputs. Token input (integers): the noise goes on the output e of the first embedding that runs, as e +
    σ·rms(e)·ε. Embeddings have no common scale.

    Evaluation is never touched, nor are passes of the probe batch. What gradient checkpointing computes again in the
    backward pass gets the noise of the last forward pass. While σ is zero no hook exists. Inside a graph
    compiled by ``torch.compile`` a token model's embedding cannot be reached: the noise is then left out.

    Args:
        model: the module that the training loop calls (wrappers included).
        generators: the library's own generators.
        data_differs: whether other processes have other batches, of which they draw noise of other shapes.
    """

    def __init__(self, model: nn.Module, generators: Generators, data_differs: Callable[[], bool] = bool) -> None:
        self._model, self._generators, self._data_differs = model, generators, data_differs
        self._hooks = Hooks()
        self._tokens = False
        self._noisy: nn.Module | None = None
        self._drawn: Tensor | None = None
        self.std = 0.0

    def set(self, std: float) -> None:
        """Use this σ from the next forward pass on; 0 stops the pump.

        Raises:
            ValueError: if σ is negative or not finite.
        """
        if not 0.0 <= std < float("inf"):
            raise ValueError(f"the standard deviation of the input noise must be finite and at least 0, got {std}")
        self.std = float(std)
        if std == 0.0:
            self.suspend()
        elif not len(self._hooks):
            self._hooks.before(self._model, self._on_input)
            for module in self._model.modules():
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    self._hooks.after(module, self._on_embedding)

    def suspend(self) -> None:
        """Remove the hooks; σ is kept, for :meth:`set` to go on with."""
        self._hooks.remove()

    def _on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._tokens = False
        dense = (x for x in tensors_in([*args, kwargs]) if x.layout is torch.strided and not x.is_nested)
        first = next(dense, None)
        if first is None or not module.training or is_undisturbed():
            return None
        if not first.is_floating_point():
            self._tokens = True
            return None
        noisy = first + self.std * self._noise(first)
        return map_tensors((args, kwargs), lambda tensor: noisy if tensor is first else tensor)

    def _on_embedding(self, module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not (self._tokens or (module is self._noisy and is_recomputed())):
            return None
        self._tokens, self._noisy = False, module
        rms = output.detach().pow(2).mean().sqrt()
        return output + self.std * rms * self._noise(output)

    def _noise(self, like: Tensor) -> Tensor:
        generator = self._generators.on(like.device)
        if is_recomputed() and self._drawn is not None:
            generator = torch.Generator(device=like.device)
            generator.set_state(self._drawn)
        else:
            generator = branch(generator) if self._data_differs() else generator
            self._drawn = generator.get_state()
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
