"""Rewrites every docstring as the documentation is built: the extension of griffe that mkdocs.yml names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from griffe import Extension, Object

# griffe loads this file by its path: the folder is not on the path of imports.
sys.path.append(str(Path(__file__).parent))

from docstring_roles import to_markdown


class Roles(Extension):
    """Applies :func:`to_markdown` to every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite one docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
