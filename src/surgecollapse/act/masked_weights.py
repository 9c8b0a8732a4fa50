"""The masks: the one invariant is ``weight == weight * mask`` after every optimizer step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from surgecollapse.act.ledger import energies
from surgecollapse.act.sharded_ranking import ShardedRanking
from surgecollapse.functional import pack, unpack
from surgecollapse.functional.selection import Ranking
from surgecollapse.torch_utils.chunking import on_pieces
from surgecollapse.torch_utils.compiled import SMALLEST, flattened, in_one_pass, is_dense
from surgecollapse.torch_utils.shards import Shards, local, part_of, whole


def mask_pass(values: Tensor, mask: Tensor) -> None:
    """Multiply ``values`` by their mask in place, to be compiled."""
    values.mul_(mask)


class MaskedWeights:
    """Prunable parameters and their masks, keyed by canonical name.

    Parameters keep their identity and their state-dict keys; masks live here. A mask has the dtype and the strides of
    its weight, since a float multiply is several times faster than a boolean one. A parameter that is fully open has no
    mask and costs nothing. With ``compile=True`` the mask of a large weight is one byte an entry, and one compiled pass
    multiplies by it. That takes a quarter of the memory for masks, three quarters of the traffic and nine tenths of the
    time. The values are the same, bit for bit.

    Args:
        params: canonical name → parameter, in a fixed order.
        compile: multiply large weights and gradients in one compiled pass each; without a compiler there is one
            warning, and plain operations do the work.
        shards: sums over the processes that hold parts of the weights. Masks of sharded weights are those of the part
            that this process holds. All counts are those of the whole.

    Attributes:
        ranking: ranks and counts entries of all weights together.
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], *, compile: bool = False, shards: Shards | None = None
    ) -> None:
        self.params: dict[str, nn.Parameter] = dict(params)
        self._compile = compile
        self.shards = Shards() if shards is None else shards
        self.ranking: Ranking = ShardedRanking(lambda: self.params, self.shards) if self.shards.sharded else Ranking()
        self.changes = 0
        self._others: Mapping[str, Tensor] | None = None
        self._masks: dict[str, Tensor] = {}
        self._live: dict[str, int] = {name: p.numel() for name, p in self.params.items()}
        self._fixed: dict[str, Tensor] = {}

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(p.numel() for p in self.params.values())

    @property
    def live(self) -> int:
        """Number of prunable weights that the masks leave open; exact, on the host."""
        return sum(self._live.values())

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are held at zero."""
        return 1.0 - self.live / self.size if self.size else 0.0

    @torch.no_grad()
    def zeros(self) -> int:
        """Number of prunable weights that are zero, as the weights are now; one host sync."""
        return sum(zeros for zeros, _ in self.zeros_in().values())

    @torch.no_grad()
    def zeros_in(self) -> dict[str, tuple[int, int]]:
        """Zeros and entries of each prunable parameter, as the weights are now; one host sync."""
        counts = self.ranking.counts({name: value == 0 for name, value in self.values.items()})
        return {name: (zeros, self.params[name].numel()) for name, zeros in counts.items()}

    @torch.no_grad()
    def disobeying(self) -> dict[str, int]:
        """How many closed weights of each parameter have a value, where any has; one host sync."""
        names = self._masked(None)
        found = {name: self.value(name).masked_fill(self._masks[name] != 0, 0) != 0 for name in names}
        return {name: count for name, count in self.ranking.counts(found).items() if count}

    def hold(self, name: str, param: nn.Parameter | None) -> bool:
        """Hold another parameter of the same name, under the same mask where the shape allows it; ``None``: no more.

        Returns:
            Whether the mask goes on holding.
        """
        self.changes += 1
        fits = param is not None and param.shape == self.params[name].shape
        if param is None:
            del self.params[name], self._live[name]
        else:
            self.params[name] = param
            if not fits:
                self._live[name] = param.numel()
        if not fits:
            self._masks.pop(name, None)
            self._fixed.pop(name, None)
        return fits

    @torch.no_grad()
    def take_zeros(self) -> None:
        """Close the weights that are zero, for good: no growth reopens them."""
        masks = {name: value != 0 for name, value in self.values.items()}
        live = self.ranking.counts(masks)
        self._fixed = {name: ~mask for name, mask in masks.items() if live[name] < self.params[name].numel()}
        self.set(masks, live)

    def closed(self, name: str) -> Tensor:
        """Boolean, true where a weight of this parameter is closed and may be reopened."""
        closed = ~self.mask(name)
        return closed & ~self._fixed[name] if name in self._fixed else closed

    def fixed_in(self, name: str) -> Tensor | None:
        """Boolean, true where a weight of this parameter is closed for good; ``None`` where none is."""
        return self._fixed.get(name)

    @property
    def fixed(self) -> int:
        """Number of weights that are closed for good."""
        return sum(self.ranking.counts(self._fixed).values())

    @property
    def dense(self) -> bool:
        """Whether no weight is held at zero."""
        return not self._masks

    def live_in(self, name: str) -> int:
        """Open weights of one parameter."""
        return self._live[name]

    def shares(self) -> dict[str, float]:
        """Share of each parameter that is open."""
        return {name: self._live[name] / max(1, p.numel()) for name, p in self.params.items()}

    def only(self, patterns: Sequence[str]) -> MaskedWeights:
        """The parameters whose names match, with their masks as they are now; not to be written.

        Raises:
            ValueError: if a pattern matches none, listing what there is.
        """
        names = [name for name in self.params if not patterns or any(fnmatchcase(name, p) for p in patterns)]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"no prunable layer is called {pattern!r}: expected one of {', '.join(self.params)}")
        part = MaskedWeights({name: self.params[name] for name in names}, shards=self.shards)
        part._others = self._others
        part._masks = {name: self._masks[name] for name in names if name in self._masks}
        part._live = {name: self._live[name] for name in names}
        part._fixed = {name: self._fixed[name] for name in names if name in self._fixed}
        return part

    def with_values(self, values: Mapping[str, Tensor]) -> MaskedWeights:
        """Other values of the same weights, under no mask but that of the weights that are closed for good."""
        other = MaskedWeights(self.params, shards=self.shards)
        other._others = values
        fixed = {name: self._fixed[name] for name in self.params if name in self._fixed}
        for name, count in other.ranking.counts(fixed).items():
            other._masks[name] = (~fixed[name]).to(values[name])
            other._live[name] = self.params[name].numel() - count
        return other

    def value(self, name: str) -> Tensor:
        """The weights of one parameter, or of a sharded one the part that is here; sharing their memory."""
        return (local(self.params[name]) if self._others is None else self._others[name]).detach()

    @property
    def values(self) -> dict[str, Tensor]:
        """All weights by name, see :meth:`value`."""
        return {name: self.value(name) for name in self.params}

    def grad(self, name: str) -> Tensor | None:
        """The gradient of one parameter, or of a sharded one the part that is here."""
        grad = self.params[name].grad
        return None if grad is None else local(grad)

    def energies(self, values: Mapping[str, Tensor] | None = None) -> dict[str, float]:
        """Squared Euclidean norm of each parameter, or of values in its place, over all parts; one host sync."""
        return energies(self.params, self.shards, self.values if values is None else values)

    def mask(self, name: str) -> Tensor:
        """Boolean copy of one mask (all true where the parameter is fully open)."""
        held, value = self._masks.get(name), self.value(name)
        return torch.ones_like(value, dtype=torch.bool) if held is None else held.to(value.device).bool()

    def held(self, name: str) -> Tensor | None:
        """The mask itself, ones and zeros; ``None`` where the parameter is fully open. Not to be changed."""
        return self._masks.get(name)

    def all_held(self) -> dict[str, Tensor]:
        """The masks themselves, of the parameters that are not fully open. Not to be changed."""
        return dict(self._masks)

    @torch.no_grad()
    def set(self, masks: Mapping[str, Tensor], live: Mapping[str, int], *, write: bool = True) -> None:
        """Replace masks (true: open) and restore the invariant; ``live`` says how many are open in each.

        With ``write=False`` the caller writes the weights.

        Closed weights become +0.0. A product with the mask would leave −0.0 of the negative ones. No optimizer brings
        that back to +0.0, and no file can leave it out bit for bit.

        Raises:
            ValueError: if a shape differs from its weight's.
        """
        self.changes += 1
        for name, mask in masks.items():
            p = self.value(name)
            if mask.shape != p.shape:
                raise ValueError(f"mask of {name} has shape {tuple(mask.shape)}, expected {tuple(p.shape)}")
            self._live[name] = live[name]
            if live[name] == self.params[name].numel():
                self._masks.pop(name, None)
            else:
                once = self._compile and p.numel() >= SMALLEST and is_dense(p)
                dtype = torch.uint8 if once else p.dtype
                self._masks[name] = torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(mask)
                if write:
                    p.masked_fill_(self._masks[name] == 0, 0)

    def add(self, name: str, param: nn.Parameter) -> None:
        """Take in a parameter that joined later, fully open."""
        self.params[name] = param
        self._live[name] = param.numel()

    @torch.no_grad()
    def apply(self, names: Iterable[str] | None = None) -> None:
        """Write ``weight *= mask`` on the parameters that have one."""
        self.multiply({name: self.value(name) for name in self._masked(names)})

    @torch.no_grad()
    def mask_gradients(self, names: Iterable[str] | None = None) -> None:
        """Write ``grad *= mask`` in place, so that no optimizer state of a pruned weight moves."""
        grads = {name: self.grad(name) for name in self._masked(names)}
        self.multiply({name: grad for name, grad in grads.items() if grad is not None})

    @torch.no_grad()
    def closed_are_zero(self, names: Iterable[str] | None = None) -> bool:
        """Whether every closed weight is zero now, or not finite."""
        closed = (self.value(name).masked_fill(self._masks[name] != 0, 0) for name in self._masked(names))
        flags = [(values.isfinite() & (values != 0)).any() for values in closed]
        return not flags or not bool(torch.stack([flag.to(flags[0].device) for flag in flags]).any())

    def _masked(self, names: Iterable[str] | None) -> list[str]:
        """The names with a mask; masks are where their weights are, also after these were moved or cast."""
        masked = [name for name in (self._masks if names is None else names) if name in self._masks]
        for name in masked:
            mask, p = self._masks[name], self.value(name)
            once = mask.dtype is torch.uint8
            if mask.device != p.device or not (once or mask.dtype is p.dtype):
                self._masks[name] = mask.to(p.device, torch.uint8 if once else p.dtype)
        return masked

    def multiply(self, values: Mapping[str, Tensor]) -> None:
        """Multiply values in place by the masks of the weights of their names, which must have one."""
        rest = [name for name, value in values.items() if not self._in_one_pass(name, value)]
        on_pieces(torch._foreach_mul_, [(values[name], self._masks[name]) for name in rest])

    def _in_one_pass(self, name: str, value: Tensor) -> bool:
        mask = self._masks[name]
        if mask.dtype is not torch.uint8:
            return False
        flat = flattened((value, mask))
        if flat is None:  # a gradient in another order than its weight
            return False
        if not in_one_pass(mask_pass, *flat):  # no compiler
            self._masks[name] = mask.to(value.dtype)
            return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """Packed masks (one bit a weight) and shapes; of sharded weights, whole masks, gathered on every rank."""

        def packed(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: pack(whole(self.params[name], mask.bool())).cpu() for name, mask in masks.items()}

        return {
            "shapes": {name: list(p.shape) for name, p in self.params.items()},
            "live": dict(self._live),
            "masks": packed(self._masks),
            "fixed": packed(self._fixed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore masks and apply them.

        Raises:
            ValueError: if names or shapes differ from this model's, naming the difference.
        """
        shapes = {name: list(p.shape) for name, p in self.params.items()}
        _check_shapes(state["shapes"], shapes)
        masks = {
            name: _unpacked(state["masks"][name], p)
            if name in state["masks"]
            else torch.ones_like(self.value(name), dtype=torch.bool)
            for name, p in self.params.items()
        }
        counted = self.ranking.counts(masks)
        if counted != state["live"]:
            raise ValueError("the masks in this checkpoint do not hold the number of weights it states: it is corrupt")
        self._masks.clear()
        self._fixed = {name: _unpacked(fixed, self.params[name]) for name, fixed in state.get("fixed", {}).items()}
        self.set(masks, counted)


class MaskMismatchError(ValueError):
    """Masks close weights that have a value: they belong to other weights."""


@torch.no_grad()
def check_obeyed(state: Mapping[str, Any], params: Mapping[str, nn.Parameter], shards: Shards) -> None:
    """Refuse masks of another net: its weights would be zero where they close, these are not.

    Args:
        state: what :meth:`MaskedWeights.state_dict` returned.
        params: the weights of the model, those that are not prunable among them.
        shards: sums over the processes that hold parts of them.

    Raises:
        ValueError: if weights are missing or have another shape.
        MaskMismatchError: if closed weights have a value, with the number of weights that would be lost.
    """
    here = {name: list(params[name].shape) if name in params else None for name in state["shapes"]}
    _check_shapes(state["shapes"], here)
    masks = {name: _unpacked(mask, params[name]) for name, mask in state["masks"].items()}
    values = {name: local(params[name]) for name in masks}
    found = {n: ((values[n].masked_fill(mask, 0) != 0) & values[n].isfinite()).sum() for n, mask in masks.items()}
    wrong = int(sum(shards.sums(params, found).values()))
    if wrong:
        raise MaskMismatchError(
            f"this state closes {wrong} weights that have a value here, so it belongs to other weights: load the "
            "model's own state first, then the optimizer's, then this one"
        )


def _check_shapes(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if saved == here:
        return
    wrong = sorted(name for name in {*here, *saved} if here.get(name) != saved.get(name))
    raise ValueError(
        "this checkpoint belongs to another model or another choice of prunable weights; they differ at "
        + ", ".join(f"{n} ({saved.get(n)} saved, {here.get(n)} here)" for n in wrong[:5])
    )


def _unpacked(packed: Tensor, param: Tensor) -> Tensor:
    """The part of a packed mask that belongs to the part of a parameter that is here."""
    return part_of(param, unpack(packed, param.shape)).to(local(param).device)
