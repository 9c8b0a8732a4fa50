"""Studies: questions about what sparse training is good for, each answered by one command and one page.

A study is one file of this package that calls :func:`study`. It says which runs it consists of, what one run measures,
and how rows become tables and a plot. Everything else is shared: processes, resume, progress, and the page.
"""

from __future__ import annotations

from surgecollapse.studies.registry import Figure, Settings, Study, Table, by_worth, registered, study

__all__ = ["Figure", "Settings", "Study", "Table", "by_worth", "registered", "study"]
