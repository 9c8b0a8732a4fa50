"""Analyzing runs from their checkpoints: measure, draw, and write one page."""

from surgecollapse.report.analyses.command import Analyzed, analyze
from surgecollapse.report.analyses.loaded_run import LoadedRun
from surgecollapse.report.analyses.registry import ANALYSES
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable, Result

__all__ = ["ANALYSES", "AnalysisResult", "Analyzed", "LoadedRun", "NotApplicable", "Result", "analyze"]
