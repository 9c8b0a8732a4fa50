"""The files of the bank: one for each stack, compact; and the runs read back."""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grokking_bank.members import Member, Problem, problem
from grokking_bank.plan import Block
from grokking_bank.readings import SERIES, Readings
from grokking_bank.stack import NETS
from surgecollapse.forecast.times import GrokkingTimes, grokking_times
from surgecollapse.record.whole_files import is_sealed, seal_of, write_whole

FIRST = 10
"""Step of the first evaluation."""
EVALUATIONS = 140
"""Of each run; their steps grow by a constant factor."""
VERSION = 1
_KEPT_BITS = 11


@dataclass(frozen=True, kw_only=True)
class BankRun:
    """One run of the bank, read back."""

    task: str
    member: Member
    steps: NDArray[np.int64]
    series: dict[str, NDArray[np.float32]]
    times: GrokkingTimes
    net: str = "perceptron"

    @property
    def outcome(self) -> str:
        """``grokked | at once | not``."""
        return self.times.outcome


def evaluation_steps(total: int, count: int = EVALUATIONS) -> list[int]:
    """Steps of the evaluations: geometric from 10 to the last.

    >>> evaluation_steps(160, 5)
    [10, 20, 40, 80, 160]
    """
    return sorted({round(FIRST * (total / FIRST) ** (i / (count - 1))) for i in range(count)})


def shortened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round the significand to 12 bits (relative error at most 2⁻¹²), so that files compress to half.

    >>> float(shortened(np.float32([1 / 3]))[0]) * 2**13
    2731.0
    """
    drop = 23 - _KEPT_BITS
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def train_stack(
    task: Problem, members: Sequence[Member], block: Block, tell: Callable[[int], None] = lambda _: None
) -> tuple[list[int], NDArray[np.float32]]:
    """Train one stack to its end.

    Args:
        task: its samples.
        members: of the stack.
        block: kind of net, steps, hidden units and batch.
        tell: called with every step at which there was an evaluation.

    Returns:
        Steps of the evaluations, and numbers (members, evaluations, series).
    """
    stack = NETS[block.net](task, members, block.hidden, block.batch)
    readings, steps = Readings(stack), evaluation_steps(block.steps)
    rows, due = [], set(steps)
    for step in range(1, block.steps + 1):
        if step in due:
            readings.prepare()
        stack.train_step()
        if step in due:
            rows.append(readings.measure())
            tell(step)
    return steps, torch.stack(rows, 1).numpy()


def write_stack(path: Path, members: Sequence[Member], block: Block, tell: Callable[[int], None]) -> None:
    """Train a stack and write its file, whole or not at all."""
    began = time.perf_counter()
    samples = problem(block.task)
    steps, values = train_stack(samples, members, block, tell)
    facts = {
        "version": VERSION,
        "task": block.task,
        "generalise": samples.generalize,
        "series": list(SERIES),
        "members": [asdict(member) for member in members],
        "hidden": block.hidden,
        "net": block.net,
        "batch": block.batch,
        "seconds": round(time.perf_counter() - began, 2),
        "torch": torch.__version__,
    }
    _write(path, steps=np.array(steps), values=shortened(values), facts=np.array(json.dumps(facts)))


def cut(path: Path, out: Path, members: Sequence[int], every: int) -> None:
    """Write a part of a file as a file of its own: some members, every n-th evaluation counted back from the last."""
    steps, values, facts = _read(path)
    facts["members"] = [facts["members"][i] for i in members]
    kept = np.arange(len(steps))[::-1][::every][::-1]
    _write(out, steps=steps[kept], values=values[list(members)][:, kept], facts=np.array(json.dumps(facts)))


def facts_of(path: Path) -> dict[str, Any]:
    """What a file says of itself."""
    return _read(path)[2]


def read_bank(folder: Path, pattern: str = "*.npz") -> list[BankRun]:
    """All runs of the files in a folder whose names fit a pattern.

    Raises:
        ValueError: if a file is damaged, or of a newer version.
    """
    runs: list[BankRun] = []
    for path in sorted(folder.glob(pattern)):
        steps, values, facts = _read(path)
        if facts["version"] > VERSION:
            raise ValueError(f"{path} has version {facts['version']}, this library reads up to {VERSION}")
        for settings, numbers in zip(facts["members"], values, strict=True):
            series = {name: numbers[:, i] for i, name in enumerate(facts["series"])}
            train, validation = series["accuracy/train"], series["accuracy/validation"]
            times = grokking_times(steps.tolist(), train.tolist(), validation.tolist(), generalize=facts["generalise"])
            net = facts.get("net", "perceptron")
            member = Member(**settings)
            runs.append(BankRun(task=facts["task"], member=member, steps=steps, series=series, times=times, net=net))
    return runs


def _write(path: Path, **parts: NDArray[Any]) -> None:
    """Write a file with a checksum of all of it, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, **parts)
    write_whole(path, content.getvalue()[:-2] + seal_of(content.getbuffer()))


def _read(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[str, Any]]:
    """Steps, values and facts, once the whole file has its checksum; older files have none.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with path.open("rb") as file:
            is_sealed(file)
            file.seek(0)
            with np.load(file) as parts:
                return parts["steps"], parts["values"], json.loads(str(parts["facts"]))
    except (zipfile.BadZipFile, zlib.error, ValueError, LookupError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged or no file of the bank ({error}): make it anew") from error
