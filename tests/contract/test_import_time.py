"""What ``import surgecollapse`` costs and does: nearly nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("pydantic", "cyclopts", "rich", "matplotlib", "sklearn", "pandas", "scipy", "starlette", "uvicorn")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after it ran ``code``."""
    program = f"{code}\nimport sys, json\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_no_torch():
    assert "torch" not in loaded_after("import surgecollapse")


@pytest.mark.parametrize(
    "code",
    [
        "import surgecollapse",
        "from surgecollapse import attach",
        "import surgecollapse.controller.controller, surgecollapse.record",
    ],
)
def test_attaching_loads_nothing_of_the_command_line_or_the_plots(code):
    # A torch that somebody else patched up may load one of these by itself.
    assert not (loaded_after(code) - loaded_after("import torch, numpy")) & set(HEAVY)


@pytest.mark.parametrize("module", ["surgecollapse.policies", "surgecollapse.record", "surgecollapse.events"])
def test_deciding_and_recording_load_no_torch(module):
    assert "torch" not in loaded_after(f"import {module}")


def test_command_line_help_loads_neither_torch_nor_plots():
    code = "import surgecollapse.cli"
    assert not loaded_after(code) & {"torch", "matplotlib", "sklearn"}


def test_importing_registers_nothing():
    """No hook, no handler, no seed, no warning filter, no thread: an import changes nothing outside."""
    loaded_after(
        """
import atexit, logging, random, threading, warnings
import torch
from torch.nn.modules import module
from torch.optim import optimizer

def state():
    hooks = [dict(v) for k, v in vars(module).items() if k.startswith("_global_") and isinstance(v, dict)]
    return (hooks, dict(optimizer._global_optimizer_pre_hooks), dict(optimizer._global_optimizer_post_hooks),
            list(logging.root.handlers), list(warnings.filters), threading.active_count(),
            atexit._ncallbacks(), torch.get_num_threads(), torch.random.get_rng_state().tolist(),
            random.getstate(), torch.get_default_dtype(), torch.is_grad_enabled())

before = state()
import surgecollapse
from surgecollapse import attach
assert state() == before
"""
    )
