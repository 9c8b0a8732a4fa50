"""The parts of :func:`surgecollapse.export.compact.compact_model`: trace → flow of units → cut."""
