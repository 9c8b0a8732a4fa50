"""A net for molecules: convolutions whose weights depend on the bond, then a sum over the atoms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ATOM = 11
"""Numbers of an atom: five elements as a one-hot, atomic number, aromatic, sp, sp², sp³, hydrogens bound to it."""
BONDS = 4
"""Kinds of bonds: single, double, triple, aromatic."""


class EdgeConvolution(nn.Module):
    """Edge-conditioned convolution: h′ᵢ = W hᵢ + Σ_{j bound to i} A(e_ij)ᵀ hⱼ + b, with a small net A of the bond.

    As bonds have a kind and nothing else, A has four arguments only; it is computed for these and not for every bond.

    Args:
        inputs: numbers of a node.
        outputs: numbers of a node afterwards.
        hidden: width of A, a perceptron with one hidden ReLU layer.

    Reference: Gilmer, Schoenholz, Riley, Vinyals, Dahl 2017, arXiv 1704.01212, section 5 ("edge network").

    >>> EdgeConvolution(11, 32)(torch.zeros(2, 5, 11), torch.zeros(2, 5, 4, 5)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 32) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.edge = nn.Sequential(nn.Linear(BONDS, hidden), nn.ReLU(), nn.Linear(hidden, inputs * outputs))
        self.root = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, h: Tensor, bonds: Tensor) -> Tensor:
        """Return nodes (n, atoms, outputs).

        Args:
            h: nodes (n, atoms, inputs).
            bonds: (n, atoms, 4, atoms), 1 where two atoms have a bond of this kind, else 0.
        """
        kinds = torch.eye(BONDS, dtype=h.dtype, device=h.device)
        matrices = self.edge(kinds).view(BONDS * self.inputs, self.outputs)
        sums = (bonds.flatten(1, 2) @ h).view(*h.shape[:2], BONDS * self.inputs)
        return self.root(h) + sums @ matrices + self.bias  # type: ignore[no-any-return]


class GraphNet(nn.Module):
    """Two edge-conditioned convolutions, the sum over all atoms, a hidden layer, one number.

    The Grokfast paper's net for QM9 (arXiv 2405.20233, after its published code): 11 → 32 → 16, hidden layer 32, ReLU.

    Args:
        widths: of the two convolutions and of the hidden layer.
        outputs: numbers for a molecule.

    >>> GraphNet()(torch.zeros(3, 5, 11 + 4 * 5)).shape
    torch.Size([3, 1])
    """

    def __init__(self, widths: Sequence[int] = (32, 16, 32), outputs: int = 1) -> None:
        super().__init__()
        first, second, last = widths
        self.first, self.first_activation = EdgeConvolution(ATOM, first), nn.ReLU()
        self.second, self.second_activation = EdgeConvolution(first, second), nn.ReLU()
        self.hidden, self.hidden_activation = nn.Linear(second, last), nn.ReLU()
        self.head = nn.Linear(last, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs) for molecules (n, atoms, 11 + 4·atoms), as ``lab.molecules`` packs them."""
        h = x[..., :ATOM]
        there = h[..., :5].sum(2, keepdim=True)  # 0 for places that a smaller molecule leaves empty
        bonds = x[..., ATOM:].reshape(*x.shape[:2], BONDS, x.shape[1])
        h = self.first_activation(self.first(h, bonds))
        h = self.second_activation(self.second(h, bonds))
        return self.head(self.hidden_activation(self.hidden((h * there).sum(1))))  # type: ignore[no-any-return]
