"""What a data set asks models to learn, and how they are scored. Importing this package imports no torch."""

from __future__ import annotations

from fltk.objectives.base import Objective
from fltk.objectives.cross_entropy import CLASSIFICATION, CrossEntropy
from fltk.objectives.measures import ACCURACY, MEASURES, Measure, headline
from fltk.objectives.next_token import NextToken
from fltk.objectives.regression import Regression

__all__ = [
    "ACCURACY",
    "CLASSIFICATION",
    "MEASURES",
    "CrossEntropy",
    "Measure",
    "NextToken",
    "Objective",
    "Regression",
    "headline",
]
