"""The commands, put together.

Whatever is slow to import (torch, plots) is imported by the command that needs it, so that help comes at once.
Every mistake of a user is one line on standard error and exit code 2; an interrupted run exits with 130.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pydantic
from cyclopts import App, CycloptsError, UnusedCliTokensError

from surgecollapse import __version__
from surgecollapse.cli.branching import fork, twin
from surgecollapse.cli.comparison import compare, typed
from surgecollapse.cli.doctor import doctor
from surgecollapse.cli.extras import extra_of
from surgecollapse.cli.flags import undotted
from surgecollapse.cli.listing import list_names
from surgecollapse.cli.live import send, watch
from surgecollapse.cli.output import INTERRUPTED, MISTAKE, fail
from surgecollapse.cli.planning import plan
from surgecollapse.cli.results import analyze, export, report
from surgecollapse.cli.studying import study
from surgecollapse.cli.training import demo, run
from surgecollapse.cli.tuning import tune
from surgecollapse.lab.config import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

app = App(
    name="surgecollapse",
    help="Train sparse networks with a controller that records every decision; compare, tune, analyze and export runs.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _command in (run, send, fork, twin, watch, report, compare, study, tune, export, analyze, plan, demo, doctor):
    app.command(_command)
app.command(list_names, name="list")
app.command(analyze, name="analyse", show=False)  # as version 0.1 spelled it


def run_command_line(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after the program's name; by default those of the process.
    """
    typed[:] = sys.argv[1:] if argv is None else argv
    words = undotted(typed)
    before, warnings.formatwarning = warnings.formatwarning, _warning
    try:
        outcome = app(words, exit_on_error=False, print_error=False)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except (CycloptsError, ValueError, OSError, ImportError) as error:
        if os.environ.get("SURGECOLLAPSE_TRACEBACK"):
            raise
        return fail(_one_line(error), MISTAKE)
    finally:
        warnings.formatwarning = before
    return int(outcome or 0)


def _warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning in one line, without the place in the code."""
    return f"surgecollapse: warning: {message}\n"


def _one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error.__cause__, pydantic.ValidationError):
        return explain(error.__cause__)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install 'surgecollapse[{extra_of(str(error.name))}]'"
    if isinstance(error, UnusedCliTokensError):
        words = error.unused_tokens or []
        return f"unrecognized argument{'s' if len(words) > 1 else ''}: {' '.join(words)} (see --help)"
    text = " ".join(str(error).split())
    return text or type(error).__name__
