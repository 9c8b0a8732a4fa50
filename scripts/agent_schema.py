"""Writes the JSON schema of the agent protocol from the typed commands: ``python scripts/agent_schema.py``."""

from __future__ import annotations

import json
from pathlib import Path

from surgecollapse.commands.schema import protocol_schema

PLACE = Path(__file__).parents[1] / "docs" / "reference" / "agent-protocol.schema.json"


def text() -> str:
    """The file."""
    return json.dumps(protocol_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
