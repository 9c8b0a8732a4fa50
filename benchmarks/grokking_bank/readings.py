"""What is measured of every member of a stack at an evaluation, under the names of the online monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgecollapse.functional import (
    dynamic_mode_residual,
    effective_rank,
    sample_participation_ratio,
    spectral_rank,
    stable_rank,
)

if TYPE_CHECKING:
    from grokking_bank.stack import Stack

PROBE = 64
"""Rows, of the training and of the validation set, that representations are measured on."""
QUANTILES, WINDOW = 16, 16
"""Of log-probabilities, and the evaluations that their dynamic modes are taken over."""
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
    "norm/row_median",
    "norm/row_spread",
    "update/row_ratio",
    "update/radial_share",
    "commutator/defect",
    "modes/residual",
)
"""Series that need the training rows alone."""
UNLABELED = (
    "confidence/validation",
    "margin/validation",
    "entropy/predictive_validation",
    "entropy/spectral_validation",
    "logits/scale_validation",
    "modes/residual_validation",
)
"""Series that need validation inputs, without labels."""
LABELED = ("loss/validation", "accuracy/validation", "gap/loss")
"""Series that need validation labels."""
SERIES = (*TRAIN, *UNLABELED, *LABELED)


class Readings:
    """Measures all members at once; keeps the weights of the step before and the vectors of the power iteration.

    Ranks are means over the weight matrices. ``gradient/slow_ratio`` is ‖m̂‖/‖g‖ with Adam's first moment m̂,
    corrected for its start. ``curvature/sharpness`` is λ(D^½HD^½)/2 of largest size on the probe rows, with D the
    step sizes, followed by warm power iteration (12 products at first, then 3 at each evaluation). Rows are those of
    all weight matrices: median length, standard deviation over mean of the lengths, and update/… as the monitor
    ``update_geometry`` has them, over all rows together. ``commutator/defect`` is that of the even and the odd probe
    rows. ``modes/residual`` is the dynamic-mode residual over the last 16 evaluations (which are even in the logarithm
    of the step) of 16 quantiles of log-probabilities: of the labels in training, of the likeliest class in validation.

    Args:
        stack: what is measured.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._before = stack.flat.clone()
        draws = torch.Generator().manual_seed(0)
        self._vector = torch.randn(stack.flat.shape, generator=draws)
        self._products = 12
        self._history: dict[str, list[Tensor]] = {"": [], "_validation": []}

    def prepare(self) -> None:
        """Remember the weights; called before the step whose update is measured."""
        self._before.copy_(self._stack.flat)

    def measure(self) -> Tensor:
        """Numbers (members, series) in the order of :data:`SERIES`, after a step."""
        with torch.no_grad():
            found = self._norms() | self._rows() | self._ranks() | self._predictions()
        found["curvature/sharpness"] = self._sharpness()
        found["commutator/defect"] = self._commutator()
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

    def _rows(self) -> dict[str, Tensor]:
        stack = self._stack
        now, before = ([stack.split(flat)[i] for i in stack.matrices] for flat in (stack.flat, self._before))
        lengths = torch.cat([matrix.norm(dim=2) for matrix in now], 1)
        earlier = torch.cat([matrix.norm(dim=2) for matrix in before], 1)
        changes = [a - b for a, b in zip(now, before, strict=True)]
        moved = torch.cat([change.norm(dim=2) for change in changes], 1)
        along = torch.cat([(c * b).sum(2) for c, b in zip(changes, before, strict=True)], 1)
        there = earlier > 0
        along = along / torch.where(there, earlier, torch.ones_like(earlier))
        ratios = moved / torch.where(there, earlier, torch.full_like(earlier, torch.nan))
        return {
            "norm/row_median": lengths.median(1).values,
            "norm/row_spread": lengths.std(1) / lengths.mean(1),
            "update/row_ratio": ratios.nanmedian(1).values,
            "update/radial_share": along.square().sum(1) / moved.square().sum(1),
        }

    def _ranks(self) -> dict[str, Tensor]:
        sigmas = [_sigma(self._stack.weights[i]) for i in self._stack.matrices]
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
            suffix = "" if part == "train" else "_validation"
            found |= _of_probe(hidden[:, :PROBE], logits[:, :PROBE], suffix)
            found[f"modes/residual{suffix}"] = self._modes(right if part == "train" else top[..., 0], suffix)
        return found

    def _modes(self, log_p: Tensor, suffix: str) -> Tensor:
        """Of the log-probabilities (members, n) of the probe rows; NaN before there are enough evaluations."""
        at = torch.linspace(0, 1, QUANTILES)
        history = self._history[suffix]
        history.append(torch.quantile(log_p[:, :PROBE], at, dim=1).T)
        del history[:-WINDOW]
        if len(history) < WINDOW:
            return torch.full((len(log_p),), torch.nan)
        return torch.stack([dynamic_mode_residual(run) for run in torch.stack(history, 1)])

    def _commutator(self) -> Tensor:
        """Of even and odd probe rows: ‖H_A g_B − H_B g_A‖ / (‖g_A‖‖g_B‖)."""
        stack = self._stack
        gradients, flat = [], []
        for which in (0, 1):
            x, y = stack.x_train[:, :PROBE][:, which::2], stack.y_train[:, :PROBE][:, which::2]
            weight = torch.full(y.shape, 1.0 / y.shape[1])
            grads = torch.autograd.grad(stack.losses(x, y, weight).sum(), stack.weights, create_graph=True)
            flat.append(torch.cat([grad.flatten(1) for grad in grads], 1))
            gradients.append(flat[-1].detach())
        crossed = []
        for slopes, other in zip(flat, reversed(gradients), strict=True):
            product = torch.autograd.grad((slopes * other).sum(), stack.weights)
            crossed.append(torch.cat([part.flatten(1) for part in product], 1))
        scale = gradients[0].norm(dim=1) * gradients[1].norm(dim=1)
        gap = (crossed[0] - crossed[1]).norm(dim=1)
        return torch.where(scale > 0, gap / scale, torch.zeros_like(gap))

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
