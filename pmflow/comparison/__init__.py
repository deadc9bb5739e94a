"""One graph under every strategy: measured in turn, held against one another, and what suits each process."""

from pmflow.comparison.comparing import compare
from pmflow.comparison.suggestions import Suggestion
from pmflow.comparison.table import Comparison, ComparisonRow

__all__ = ["Comparison", "ComparisonRow", "Suggestion", "compare"]
