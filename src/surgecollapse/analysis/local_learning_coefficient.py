"""How degenerate a minimum is: the local learning coefficient by stochastic-gradient Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgecollapse.analysis.open_weights import open_weights
from surgecollapse.functional import batch_loss
from surgecollapse.torch_utils.modules import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Weights = Mapping[str, Tensor]
Sampled = Callable[[Weights, torch.Generator], Tensor]

MIXED = 1.1
"""Largest R̂ of chains that count as mixed (Gelman et al. 2013, Bayesian Data Analysis, sections 11.4 and 11.5)."""


@dataclass(frozen=True)
class LocalLearningCoefficient:
    """The estimate, and what is needed to doubt it."""

    value: float
    """nβ(E_β L − L*), mean of the chains."""
    standard_error: float
    """Of that mean, from the spread of chains; NaN for one."""
    by_chain: tuple[float, ...]
    traces: tuple[tuple[float, ...], ...]
    """nβ(L − L*) at every step of each chain, burn-in included."""
    burn_in: int
    """First steps, which no mean contains."""
    at_half_step: float
    """The estimate with half the step size; NaN if it was not asked for. Far from ``value``: the step is too long."""
    r_hat: float
    """Gelman–Rubin ratio of the halves of all chains; well above 1 where they have not mixed, or still drift: all of
    them start at the same weights. NaN for one chain, or fewer than 4 draws."""
    step_size: float
    localization: float

    @property
    def doubt(self) -> str:
        """Why ``value`` is not a result; empty where the chains have passed all tests."""
        error = 0.0 if math.isnan(self.standard_error) else self.standard_error
        if math.isnan(self.r_hat):
            few = "a single chain does" if len(self.by_chain) < 2 else "so few or equal draws do"
            return f"{few} not show whether chains have mixed: take chains=2 or more, and draws=4 or more"
        if not self.r_hat <= MIXED:
            return f"the chains have not mixed: R̂ = {self.r_hat:.2f}, above {MIXED}; take more burn_in and draws"
        if self.value < -2 * error:
            return "the chains found lower losses: the net is not at a minimum of this loss"
        if abs(self.value - self.at_half_step) > max(3 * error, 0.25 * abs(self.value)):
            return f"half the step size gives {self.at_half_step:.3g}, the step {self.value:.3g}: shorten step_size"
        return ""

    def plot(self) -> Figure:
        """Draw the traces: level after the burn-in if the chains have arrived."""
        from surgecollapse.record.plot import new_figure

        figure: Figure = new_figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for trace in self.traces:
            axes.plot(trace, linewidth=0.6, alpha=0.7)
        axes.axvspan(0, self.burn_in, color="gray", alpha=0.15, label="burn-in")
        if not self.doubt:
            axes.axhline(self.value, color="black", linestyle="--", label=f"estimate {self.value:.3g}")
        axes.set_xlabel("step of the chain")
        axes.set_ylabel("nβ (L − L*)")
        axes.legend()
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Plain values and the doubt, for JSON."""
        return {**asdict(self), "doubt": self.doubt}


def sample_learning_coefficient(
    loss: Sampled,
    weights: Weights,
    samples: int,
    best: float,
    *,
    step_size: float = 1e-4,
    localization: float = 100.0,
    chains: int = 4,
    draws: int = 500,
    burn_in: int = 200,
    check_step: bool = True,
    seed: int = 0,
    masks: Weights | None = None,
) -> LocalLearningCoefficient:
    r"""λ̂ = nβ(E_β L − L*), β = 1/ln n (Lau et al., arXiv 2308.12108, eq. 15), by Langevin chains from w*.

    w ← w − ε/2 [nβ∇L(w) + γ(w − w*)] + N(0, ε): the density ∝ exp(−nβL − γ‖w − w*‖²/2). Regular models have d/2, less
    what the localization takes: ½Σ nβh/(nβh + γ) on a quadratic. Singular ones have less; the limit is approached as
    slowly as ln ln n/ln n. L in the mean is what the chain saw (a batch, before the step).

    Args:
        loss: scalar mean loss of the weights; may draw a batch from the generator.
        weights: w*, a minimum; not changed.
        samples: n > 1, of the data that the loss is the mean of.
        best: L*, the loss at w* on all data.
        step_size: ε.
        localization: γ ≥ 0.
        chains: independent ones.
        draws: steps of each that count.
        burn_in: steps before them.
        check_step: also run with ε/2.
        seed: of noise and batches.
        masks: by the names of ``weights``, ones where a weight moves and zeros where it stays; without one it moves.

    Raises:
        ValueError: for values out of range, a loss at w* that is not finite, or a chain that diverged (the step is too
            long).
    """
    if samples < 2 or min(chains, draws) < 1 or burn_in < 0 or not step_size > 0.0 or localization < 0.0:
        raise ValueError(
            "expected samples ≥ 2, chains and draws ≥ 1, burn_in ≥ 0, step_size > 0 and localization ≥ 0, got "
            f"{samples}, {chains}, {draws}, {burn_in}, {step_size} and {localization}"
        )
    if not math.isfinite(best):
        raise ValueError(f"the loss at the weights is {best}: expected a minimum")
    scale = samples / math.log(samples)

    def run(epsilon: float) -> list[list[float]]:
        return [
            [
                scale * (value - best)
                for value in _chain(loss, weights, masks or {}, scale, epsilon, localization, burn_in + draws, seed + i)
            ]
            for i in range(chains)
        ]

    traces = run(step_size)
    kept = torch.tensor(traces, dtype=torch.float64)[:, burn_in:]
    half = math.nan
    if check_step:
        half = float(torch.tensor(run(step_size / 2), dtype=torch.float64)[:, burn_in:].mean())
    means = kept.mean(1)
    return LocalLearningCoefficient(
        value=float(means.mean()),
        standard_error=float(means.std() / chains**0.5) if chains > 1 else math.nan,
        by_chain=tuple(means.tolist()),
        traces=tuple(tuple(trace) for trace in traces),
        burn_in=burn_in,
        at_half_step=half,
        r_hat=_r_hat(kept),
        step_size=step_size,
        localization=localization,
    )


def local_learning_coefficient(
    model: nn.Module,
    criterion: Callable[[Any, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    batch: int | None = None,
    masks: Weights | None = None,
    **options: Any,
) -> LocalLearningCoefficient:
    """The coefficient of a net at its present weights, in eval mode; see :func:`sample_learning_coefficient`.

    Args:
        model: not changed; the mode is kept.
        criterion: mean negative log-likelihood of output and targets, in nats.
        inputs: the training data.
        targets: its labels.
        batch: rows of a step; all of them by default.
        masks: of a sparse net, as ``controller.masks``: weights that a mask holds at zero stay there. Without masks
            the coefficient is that of the dense net at these weights.
        options: ``step_size``, ``localization``, ``chains``, ``draws``, ``burn_in``, ``check_step``, ``seed``.

    Raises:
        ValueError: if a weight is complex or not finite, a mask fits no parameter, or sampling fails.
    """
    weights, held = open_weights(model, masks)

    def loss(now: Weights, generator: torch.Generator) -> Tensor:
        if batch is None:
            return batch_loss(model, criterion, inputs, targets)(now)
        rows = torch.randint(len(inputs), (batch,), generator=generator).to(inputs.device)
        return batch_loss(model, criterion, inputs[rows], targets[rows])(now)

    with evaluating(model):
        with torch.no_grad():
            best = float(batch_loss(model, criterion, inputs, targets)(weights))
        return sample_learning_coefficient(loss, weights, len(inputs), best, masks=held, **options)


def reduced_rank_regression(inputs: int, outputs: int, hidden: int, rank: int = 0) -> tuple[float, int]:
    r"""Learning coefficient λ and multiplicity m of y = BAx + noise, where the truth has a lower rank than BA may have.

    The closed form of Aoyagi and Watanabe (2005, Neural Networks 18, 924–933), for A (H, M), B (N, H) and a truth of
    rank r. With s = H + r, if none of the three sums N + r, M + r, H + r exceeds M + H, N + H, M + N in turn::

        λ = (2sM + 2sN + 2MN − s² − M² − N²)/8, m = 1, where M + N + s is even;  1/8 more, m = 2, where it is odd

    otherwise m = 1 and λ is (HM − Hr + Nr)/2, (HN − Hr + Mr)/2 or MN/2. Sampling from a true (A, B), both of rank r,
    tends to it as n grows. At finite n it finds less, where m = 2 by about 1/ln n.

    Args:
        inputs: M.
        outputs: N.
        hidden: H.
        rank: r ≤ min(H, M, N).

    Raises:
        ValueError: for sizes below 1 or a rank that BA cannot have.

    >>> reduced_rank_regression(1, 1, 1), reduced_rank_regression(2, 2, 2), reduced_rank_regression(3, 3, 2, rank=2)
    ((0.5, 2), (1.5, 1), (4.0, 1))
    """
    m, n, h, r = inputs, outputs, hidden, rank
    if min(m, n, h) < 1 or not 0 <= r <= min(m, n, h):
        raise ValueError(f"expected sizes ≥ 1 and a rank in [0, min of them], got {m}, {n}, {h} and rank {r}")
    if n + r > m + h:
        return (h * m - h * r + n * r) / 2, 1
    if m + r > n + h:
        return (h * n - h * r + m * r) / 2, 1
    if h + r > m + n:
        return m * n / 2, 1
    s = h + r
    whole = 2 * s * m + 2 * s * n + 2 * m * n - s * s - m * m - n * n
    return ((whole + 1) / 8, 2) if (m + n + s) % 2 else (whole / 8, 1)


def _chain(
    loss: Sampled,
    weights: Weights,
    masks: Weights,
    scale: float,
    epsilon: float,
    localization: float,
    steps: int,
    seed: int,
) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    now = {name: w.clone() for name, w in weights.items()}
    seen = []
    for _ in range(steps):
        leaves = {name: w.requires_grad_() for name, w in now.items()}
        with torch.enable_grad():
            value = loss(leaves, generator)
            slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        seen.append(value.detach())
        now = {}
        for (name, w), slope in zip(leaves.items(), slopes, strict=True):
            pull = scale * slope + localization * (w.detach() - weights[name])
            noise = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
            moved = math.sqrt(epsilon) * noise - epsilon / 2 * pull
            now[name] = w.detach() + (moved * masks[name] if name in masks else moved)
    found: list[float] = torch.stack(seen).tolist()
    if not all(map(math.isfinite, found)):
        raise ValueError(f"a chain diverged: step_size {epsilon:g} is too long for this loss, take a tenth of it")
    return found


def _r_hat(kept: Tensor) -> float:
    """Pooled variance over the variance within halves of chains, square root (Gelman et al. 2013, section 11.4).

    Whole chains (Gelman and Rubin 1992) would not show a drift that all of them share.
    """
    chains, draws = kept.shape[0], kept.shape[1] // 2
    if chains < 2 or draws < 2:
        return math.nan
    halves = torch.cat([kept[:, :draws], kept[:, -draws:]])
    within = halves.var(1).mean()
    between = halves.mean(1).var()
    return float(((draws - 1) / draws + between / within).sqrt())
