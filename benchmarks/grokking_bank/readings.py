"""What is measured of every member of a stack at an evaluation, under the names of the online monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional import effective_rank, sample_participation_ratio, spectral_rank, stable_rank

if TYPE_CHECKING:
    from grokking_bank.stack import Stack

PROBE = 64
"""Rows, of the training and of the validation set, that representations are measured on."""
TRAIN = (
    "loss/train",
    "accuracy/train",
    "norm/weight",
    "norm/gradient",
    "norm/update",
    "norm/update_ratio",
    "gradient/slow_ratio",
    "alignment/naive_loss",
    "rank/effective",
    "rank/stable",
    "rank/rankme",
    "rank/activation_stable",
    "dimension/participation_ratio",
    "entropy/spectral",
    "entropy/predictive",
    "logits/scale",
    "logits/softmax_collapse",
    "confidence/train",
    "margin/train",
    "curvature/sharpness",
)
"""Series that need the training rows alone."""
UNLABELED = (
    "confidence/validation",
    "margin/validation",
    "entropy/predictive_validation",
    "entropy/spectral_validation",
    "logits/scale_validation",
)
"""Series that need validation inputs, without labels."""
LABELED = ("loss/validation", "accuracy/validation", "gap/loss")
"""Series that need validation labels."""
SERIES = (*TRAIN, *UNLABELED, *LABELED)


class Readings:
    """Measures all members at once; keeps the weights of the step before and the vectors of the power iteration.

    Ranks are means over the two weight matrices. ``gradient/slow_ratio`` is ‖m̂‖/‖g‖ with Adam's first moment m̂,
    corrected for its start. ``curvature/sharpness`` is λ(D^½HD^½)/2 of largest size on the probe rows, with D the
    step sizes, followed by warm power iteration (12 products at first, then 3 at each evaluation).

    Args:
        stack: what is measured.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._before = stack.flat.clone()
        draws = torch.Generator().manual_seed(0)
        self._vector = torch.randn(stack.flat.shape, generator=draws)
        self._products = 12

    def prepare(self) -> None:
        """Remember the weights; called before the step whose update is measured."""
        self._before.copy_(self._stack.flat)

    def measure(self) -> Tensor:
        """Numbers (members, series) in the order of :data:`SERIES`, after a step."""
        with torch.no_grad():
            found = self._norms() | self._ranks() | self._predictions()
        found["curvature/sharpness"] = self._sharpness()
        found["gap/loss"] = found["loss/validation"] - found["loss/train"]
        return torch.stack([found[name].float() for name in SERIES], 1)

    def _norms(self) -> dict[str, Tensor]:
        stack = self._stack
        weight, gradient = stack.flat.norm(dim=1), stack.gradient.norm(dim=1)
        update = (stack.flat - self._before).norm(dim=1)
        slow = stack.moments[0].norm(dim=1) / (1 - 0.9**stack.step)
        alignment = -(self._before * stack.gradient).sum(1) / (self._before.norm(dim=1) * gradient)
        return {
            "norm/weight": weight,
            "norm/gradient": gradient,
            "norm/update": update,
            "norm/update_ratio": update / self._before.norm(dim=1),
            "gradient/slow_ratio": slow / gradient,
            "alignment/naive_loss": alignment.nan_to_num(0.0).clamp(-1, 1),
        }

    def _ranks(self) -> dict[str, Tensor]:
        sigmas = [_sigma(weight) for weight in self._stack.weights[::2]]
        return {
            "rank/effective": torch.stack([effective_rank(sigma) for sigma in sigmas]).mean(0),
            "rank/stable": torch.stack([stable_rank(sigma) for sigma in sigmas]).mean(0),
        }

    def _predictions(self) -> dict[str, Tensor]:
        stack = self._stack
        found: dict[str, Tensor] = {}
        for part, x, y, weight in (
            ("train", stack.x_train, stack.y_train, stack.w_train),
            ("validation", stack.x_validation, stack.y_validation, stack.w_validation),
        ):
            hidden = stack.hidden(x)
            logits = stack.logits(hidden)
            top, at = logits.log_softmax(-1).topk(2, dim=-1)
            found[f"accuracy/{part}"] = ((at[..., 0] == y) * weight).sum(1)
            right = logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
            found[f"loss/{part}"] = -(right * weight).sum(1)
            found[f"confidence/{part}"] = (top[..., 0].exp() * weight).sum(1)
            found[f"margin/{part}"] = ((top[..., 0].exp() - top[..., 1].exp()) * weight).sum(1)
            found |= _of_probe(hidden[:, :PROBE], logits[:, :PROBE], "" if part == "train" else "_validation")
        return found

    def _sharpness(self) -> Tensor:
        stack = self._stack
        roots = stack.step_sizes().sqrt()
        x, y = stack.x_train[:, :PROBE], stack.y_train[:, :PROBE]
        weight = torch.full(y.shape, 1.0 / y.shape[1])
        grads = torch.autograd.grad(stack.losses(x, y, weight).sum(), stack.weights, create_graph=True)
        gradient = torch.cat([grad.flatten(1) for grad in grads], 1)
        value = torch.zeros(len(stack.members))
        for last in range(self._products):
            vector = torch.nn.functional.normalize(self._vector, dim=1)
            product = torch.autograd.grad(
                (gradient * (roots * vector)).sum(), stack.weights, retain_graph=last + 1 < self._products
            )
            self._vector = roots * torch.cat([part.flatten(1) for part in product], 1)
            value = (self._vector * vector).sum(1) / 2
        # A net that has diverged would keep its vector at NaN for good; all others go on from theirs.
        self._vector = self._vector.nan_to_num(0.0) + 1e-12
        self._products = 3
        return value


def _sigma(matrices: Tensor) -> Tensor:
    """Singular values (members, k), by the smaller Gram matrix in float64; NaN where a matrix is not finite."""
    wide = matrices.detach().double()
    gram = wide @ wide.mT if wide.shape[1] <= wide.shape[2] else wide.mT @ wide
    finite = gram.isfinite().flatten(1).all(1)
    values = torch.linalg.eigvalsh(torch.where(finite[:, None, None], gram, 0.0)).flip(-1).clamp(min=0).sqrt()
    return torch.where(finite[:, None], values, torch.nan)


def _of_probe(hidden: Tensor, logits: Tensor, suffix: str) -> dict[str, Tensor]:
    """Spectra of the activations, and what the outputs look like, on the same rows as online."""
    centered = _sigma(hidden - hidden.mean(1, keepdim=True))
    log_p = logits.log_softmax(-1)
    classes = torch.tensor(float(logits.shape[-1]))
    scale = (logits - logits.mean(-1, keepdim=True)).square().mean((1, 2)).sqrt()
    entropy = (spectral_rank(centered).log() / torch.tensor(float(hidden.shape[2])).log()).clamp(0, 1)
    found = {
        f"entropy/spectral{suffix}": entropy,
        f"entropy/predictive{suffix}": -(log_p.exp() * log_p).sum(-1).mean(1) / classes.log(),
        f"logits/scale{suffix}": scale,
    }
    if suffix:
        return found
    plain = _sigma(hidden)
    collapsed = (logits - logits.amax(-1, keepdim=True)).exp().sum(-1) == 1
    return found | {
        "rank/rankme": effective_rank(plain),
        "rank/activation_stable": stable_rank(plain),
        "dimension/participation_ratio": torch.stack([sample_participation_ratio(rows) for rows in hidden]),
        "logits/softmax_collapse": collapsed.float().mean(1),
    }
