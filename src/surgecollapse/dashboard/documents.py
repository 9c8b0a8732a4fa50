"""Reports and analyses that lie beside a run, shown through the page's server without any script."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("report", "analysis")
"""Folders of a run, or of the folder that it lies in, with an ``index.html``."""
CONFINED = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox allow-same-origin allow-popups"
"""The policy of such a page: styles and pictures, no script and no form."""
_LARGEST = 2**26
_FILE = re.compile(r"[\w.-]{1,100}\.(html|png|svg)")


class Documents:
    """Finds documents, and names them by addresses that only the holder of the token can know.

    Args:
        root: the folder of runs.
        token: of the page.
    """

    def __init__(self, root: Path, token: str) -> None:
        self._root = root
        self._key = token.encode()

    def of(self, run: str, folder: Path) -> list[dict[str, Any]]:
        """The documents of a run: ``kind``, whether it is of the run alone, its ``address`` and when it was written."""
        found = []
        for kind in KINDS:
            for scope, place in (("run", folder), ("beside", folder.parent)):
                page = self._page(place, kind)
                if page is not None and (scope == "run" or folder.resolve() != self._root.resolve()):
                    address = f"/documents/{run}/{kind}-{scope}/{self.ticket(run, kind, scope)}/index.html"
                    found.append({"kind": kind, "scope": scope, "address": address, "written": page.stat().st_mtime})
        return found

    def ticket(self, run: str, kind: str, scope: str) -> str:
        """What stands in the address of a document instead of the token."""
        return hmac.new(self._key, f"{run}/{kind}/{scope}".encode(), hashlib.sha256).hexdigest()[:40]

    def read(self, run: str, folder: Path, named: str, ticket: str, file: str) -> bytes:
        """A file of a document; an HTML page with a line that leads back to the run.

        Raises:
            KeyError: if there is none, or the address is not one that was given out.
        """
        kind, _, scope = named.partition("-")
        known = kind in KINDS and scope in ("run", "beside") and _FILE.fullmatch(file)
        if not known or not hmac.compare_digest(ticket.encode(), self.ticket(run, kind, scope).encode()):
            raise KeyError(named)
        base = folder if scope == "run" else folder.parent
        page = self._page(base, kind)
        if page is None:
            raise KeyError(named)
        place = page.with_name(file)
        if not self._is_inside(place) or place.stat().st_size > _LARGEST:
            raise KeyError(file)
        data = place.read_bytes()
        if file.endswith(".html"):
            back = f'<p style="margin:.6rem 1rem"><a href="/#/{run}">← back to the run on the live page</a></p>'
            head, body, tail = data.partition(b"<body>")
            data = head + body + back.encode() + tail if body else data
        return data

    def _page(self, base: Path, kind: str) -> Path | None:
        page = base / kind / "index.html"
        return page if self._is_inside(page) else None

    def _is_inside(self, place: Path) -> bool:
        """Whether it is a plain file of the folder of runs, by no link that leads out."""
        try:
            return place.is_file() and place.resolve(strict=True).is_relative_to(self._root.resolve())
        except (OSError, RuntimeError):
            return False
