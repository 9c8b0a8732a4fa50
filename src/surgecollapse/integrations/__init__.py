"""One thin file for each trainer: the same controller, attached and saved where that trainer does it."""
