"""Expected calibration error against values by hand."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.calibration import calibration_error


def logits_of(*confidences):
    return torch.tensor([[p, 1 - p] for p in confidences], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("confidences", "labels", "expected"),
    [
        ((0.75, 0.75, 0.75, 0.75), (0, 0, 0, 1), 0.0),  # right as often as sure
        ((0.9, 0.9), (1, 1), 0.9),
        ((0.62, 0.95), (1, 0), (0.62 + 0.05) / 2),  # two bins: gaps do not cancel
    ],
)
def test_calibration_error_is_the_weighted_gap_of_bins(confidences, labels, expected):
    assert calibration_error(logits_of(*confidences), torch.tensor(labels), bins=10) == pytest.approx(expected)


def test_gaps_cancel_within_one_bin():
    assert calibration_error(logits_of(0.6, 0.9), torch.tensor([1, 0]), bins=1) == pytest.approx(0.25)


@pytest.mark.parametrize(("rows", "bins"), [(0, 15), (1, 0)])
def test_no_rows_or_no_bins_are_refused(rows, bins):
    with pytest.raises(ValueError, match="at least one row and one bin"):
        calibration_error(torch.zeros(rows, 2), torch.zeros(rows, dtype=torch.long), bins)
