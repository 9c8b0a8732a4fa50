"""The parts of :func:`surgecollapse.export.compact.compact_model`: trace → groups of units → cut."""
