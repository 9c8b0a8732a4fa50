"""The section ``transforms``: what is done to gradients before a step, and to weights after it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from surgecollapse.lab.section import Section

_GROKFAST = "Amplify the slow part of gradients: by an exponential mean (ema) or a window (ma)."
_LAMB = "Amplification by grokfast; by default 2 for ema, 5 for ma."


class AnyTransforms(Section):
    """What does not depend on the filter of gradients."""

    grokfast: str = Field(description=_GROKFAST)
    orthograd: Literal["none", "rescaled", "plain"] = Field(
        "none",
        description="Project gradients orthogonally to their weights: rescaled to their norm, or plain (eq. 12).",
    )
    equalize_spectrum: bool = Field(
        False,
        description="Set all singular values of gradients of matrices to 1, in a transformer of the MLPs' alone (EGD).",
    )
    clip: float | None = Field(None, gt=0, allow_inf_nan=False, description="Clip the gradient norm to this.")
    max_row_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="After each step, bound the norm of every row of weights, but for tokens and head (Clip to Grok).",
    )
    sam_rho: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Take gradients at weights perturbed by this length along the last gradient (S²-SAM); 0: none.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Evaluate, and end with, an exponential average of the weights of this decay; 0: none.",
    )


class Unfiltered(AnyTransforms):
    """No filter."""

    grokfast: Literal["none"] = Field("none", description=_GROKFAST)


class ExponentialFilter(AnyTransforms):
    """Grokfast by an exponential mean (arXiv 2405.20233)."""

    grokfast: Literal["ema"] = Field(description=_GROKFAST)
    grokfast_alpha: float = Field(0.98, ge=0, lt=1, description="Decay of the exponential mean of grokfast.")
    grokfast_lamb: float = Field(2.0, allow_inf_nan=False, description=_LAMB)


class WindowFilter(AnyTransforms):
    """Grokfast by the mean over a window (arXiv 2405.20233)."""

    grokfast: Literal["ma"] = Field(description=_GROKFAST)
    grokfast_window: int = Field(100, ge=1, le=100_000, description="Gradients in the window of grokfast.")
    grokfast_lamb: float = Field(5.0, allow_inf_nan=False, description=_LAMB)


Transforms = Annotated[Unfiltered | ExponentialFilter | WindowFilter, Field(discriminator="grokfast")]
