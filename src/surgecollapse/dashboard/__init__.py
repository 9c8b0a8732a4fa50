"""The live page of ``surgecollapse watch``: shows runs while they train, and carries what a person asks to them.

Reads run stores through read-only connections and writes to their command queues alone; never imports torch. The page
itself is the folder ``page``: no build step, no request to anywhere else. uPlot 1.6.32 is vendored there with its MIT
license.
"""

from __future__ import annotations
