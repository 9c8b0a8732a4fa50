"""What a person who watches asks to see once: histograms of weights, gradients and activations, and confusions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from surgecollapse.lab.training.evaluation import predict
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from surgecollapse.lab.training.trainer import Training

BINS = 40
"""Of a histogram."""
_TENSORS = 24
_ROWS = 256
_CLASSES = 64


@torch.no_grad()
def histogram(values: Tensor, bins: int = BINS) -> NDArray[np.float64]:
    """How often values occur, exact zeros apart: most weights of a sparse net are zero, and would hide the others.

    Args:
        values: of any shape.
        bins: equal ranges between the least and the greatest finite value that is not zero.

    Returns:
        Three rows of ``bins + 1``: the edges; the counts, and 0; the number of zeros, of values that are not finite, of
        all values, and 0s.

    >>> histogram(torch.tensor([0.0, 0.0, 1.0, 1.5, 3.0]), bins=2)[:, :3].tolist()
    [[1.0, 2.0, 3.0], [2.0, 1.0, 0.0], [2.0, 0.0, 5.0]]
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    flat = values.detach().flatten().float()
    finite = flat[torch.isfinite(flat)]
    live = finite[finite != 0].cpu().numpy()
    counts, edges = np.histogram(live, bins=bins)
    rest = np.zeros(bins + 1)
    rest[:3] = len(finite) - len(live), len(flat) - len(finite), len(flat)
    return np.stack([edges, np.append(counts, 0), rest]).astype(np.float64)


def activations(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs of the activation modules (``nn.GELU`` …) in eval mode, by name; of linear layers where there are none.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> list(activations(net, torch.ones(3, 2)))
    ['1']
    """
    places = {name: module for name, module in model.named_modules() if _is_activation(module)}
    places = places or {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: found.update({name: output}))
        for name, module in list(places.items())[:_TENSORS]
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def confusions(predicted: Tensor, labels: Tensor, classes: int) -> NDArray[np.int64]:
    """How often class i was taken for class j.

    >>> confusions(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = labels.flatten().long() * classes + predicted.flatten().long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).cpu().numpy()


def inspect(training: Training) -> str:
    """Record what the net looks like now; nothing that the run computes is changed.

    Arrays ``histogram/weights/…``, ``histogram/gradients/…`` (of the last step, as the optimizer took them) and
    ``histogram/activations/…`` (256 held-out samples), 24 tensors of each at most. ``confusion/validation`` is written
    for up to 64 classes.

    Returns:
        What was recorded, in words.
    """
    model, store, step = training.model, training.store, training.step
    matrices = [(name, weight) for name, weight in model.named_parameters() if weight.ndim >= 2][:_TENSORS]
    shown: dict[str, Tensor] = {f"weights/{name}": weight for name, weight in matrices}
    shown |= {f"gradients/{name}": weight.grad for name, weight in matrices if weight.grad is not None}
    some = activations(model, training.data.x_validation[:_ROWS])
    shown |= {f"activations/{name}": output for name, output in some.items()}
    for name, values in shown.items():
        store.put_array(step, f"histogram/{name}", histogram(values))
    logits, labels = predict(model, training.data.x_validation), training.data.y_validation
    classes = logits.shape[-1]
    classified = classes <= _CLASSES and not labels.is_floating_point()
    if classified:
        store.put_array(step, "confusion/validation", confusions(logits.argmax(dim=-1), labels, classes))
    return f"{len(shown)} histograms" + (" and the confusion matrix" if classified else "")


def _is_activation(module: nn.Module) -> bool:
    inside = type(module).__module__ == "torch.nn.modules.activation"
    return inside and not isinstance(module, nn.MultiheadAttention)
