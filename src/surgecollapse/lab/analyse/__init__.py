"""Analysing runs from their checkpoints: measure, draw, and write one page."""

from surgecollapse.lab.analyse.command import Analysed, analyse
from surgecollapse.lab.analyse.finding import Finding, NotApplicable, Result
from surgecollapse.lab.analyse.kinds import ANALYSES
from surgecollapse.lab.analyse.subject import Subject

__all__ = ["ANALYSES", "Analysed", "Finding", "NotApplicable", "Result", "Subject", "analyse"]
