"""Hooks of the documentation's build: what Markdown cannot say."""

from __future__ import annotations

import re
from typing import Any

_MEASURED = re.compile(r"(?<=\d) ± (?=\d)")


def on_page_content(html: str, **_: Any) -> str:
    """Keep a value and its interval on one line, by no-break spaces."""
    return _MEASURED.sub("\u00a0±\u00a0", html)
