"""What a detector with learned weights may look at."""

from __future__ import annotations

from surgecollapse.forecast.features import TIME, Feature

_CHANGING = {
    "train": (
        "loss/train",
        "norm/weight",
        "norm/gradient",
        "norm/update_ratio",
        "rank/effective",
        "rank/stable",
        "rank/rankme",
        "rank/activation_stable",
        "dimension/participation_ratio",
        "logits/scale",
        "curvature/sharpness",
        "entropy/spectral",
        "alignment/naive_loss",
        "gradient/slow_ratio",
        "confidence/train",
    ),
    "unlabeled": (
        "confidence/validation",
        "margin/validation",
        "entropy/predictive_validation",
        "entropy/spectral_validation",
        "logits/scale_validation",
    ),
    "labeled": ("loss/validation", "accuracy/validation"),
}
_LEVELS = {
    "train": (
        "entropy/spectral",
        "alignment/naive_loss",
        "gradient/slow_ratio",
        "logits/softmax_collapse",
        "curvature/sharpness",
        "confidence/train",
    ),
    "unlabeled": ("confidence/validation", "margin/validation", "entropy/predictive_validation"),
    "labeled": ("accuracy/validation",),
}
TRACKS = tuple(_CHANGING)
"""What a detector may look at: the training rows; inputs of the validation rows, too; their labels, too."""


def features_of(track: str) -> tuple[Feature, ...]:
    """All features of a track; each track has those of the ones before.

    Raises:
        ValueError: for an unknown track.

    >>> [len(features_of(track)) for track in TRACKS]
    [37, 50, 55]
    """
    if track not in TRACKS:
        raise ValueError(f"unknown track {track!r}: expected one of {', '.join(TRACKS)}")
    found = [TIME]
    for part in TRACKS[: TRACKS.index(track) + 1]:
        found += [Feature(series, form) for series in _CHANGING[part] for form in ("change", "slope")]
        found += [Feature(series, "value") for series in _LEVELS[part]]
    return tuple(found)
