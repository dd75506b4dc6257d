"""The published study (Schneider, Stenning & Elliott 2023): its runs, and verdicts on its print."""

from __future__ import annotations

from analysis.paper.beyond import (
    LabelError,
    corrected_intervals,
    label_error,
    optimism,
    pictured_matrices,
    pictured_scores,
)
from analysis.paper.claims import MCNEMAR, VERDICTS, Verdict, is_published, verdicts
from analysis.paper.folder import read_source
from analysis.paper.importer import import_published
from analysis.paper.master import runs_of_record
from analysis.paper.pages import THRESHOLDS, Part, limits, parts
from analysis.paper.study import PublishedRun
from galaxy_mlflow.tracking import Imported

__all__ = [
    "MCNEMAR",
    "THRESHOLDS",
    "VERDICTS",
    "Imported",
    "LabelError",
    "Part",
    "PublishedRun",
    "Verdict",
    "corrected_intervals",
    "import_published",
    "is_published",
    "label_error",
    "limits",
    "optimism",
    "parts",
    "pictured_matrices",
    "pictured_scores",
    "read_source",
    "runs_of_record",
    "verdicts",
]
