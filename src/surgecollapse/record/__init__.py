"""Where the events of a run go: into a list (:class:`MemoryRecorder`) or into one SQLite file
(:class:`RunStore`).

Never imports torch: pages and tools that only read a run stay light.
"""

from __future__ import annotations

from surgecollapse.record.branch import copy_record, last_step
from surgecollapse.record.commands import CommandQueue, QueuedCommand
from surgecollapse.record.frames import Run, load_run
from surgecollapse.record.memory import MemoryRecorder
from surgecollapse.record.schema import RunStoreError
from surgecollapse.record.store import RunStore, Series
from surgecollapse.record.tail import NewRecords, Tail

__all__ = [
    "CommandQueue",
    "MemoryRecorder",
    "NewRecords",
    "QueuedCommand",
    "Run",
    "RunStore",
    "RunStoreError",
    "Series",
    "Tail",
    "copy_record",
    "last_step",
    "load_run",
]
