"""Plain functions in, a running graph out.

>>> import pmflow
>>> @pmflow.process
... def page(url):
...     return f"text of {url}"
>>> @pmflow.process
... def words(page):
...     return page.split()
>>> pmflow.run(words, inputs={"url": "a"}).value
['text', 'of', 'a']
"""

from pmflow.base import BaseProcess
from pmflow.commands import command
from pmflow.comparison import Comparison, compare
from pmflow.config import ProcessConfig, ProcessId, ProcessType, RetryStrategy, cross
from pmflow.context import Current, carry, current
from pmflow.decorator import FunctionProcess, process
from pmflow.engine.explanation import Explanation, ParameterOrigin
from pmflow.engine.plan import Plan
from pmflow.errors import (
    CommandError,
    ConfigurationError,
    CycleError,
    DuplicateProcessError,
    GraphError,
    InputError,
    MissingDependencyError,
    NoCurrentProcessError,
    NoValueError,
    PerformanceWarning,
    PmflowError,
    ProcessCancelledError,
    ProcessError,
    ProcessTimeoutError,
    RunTimeoutError,
    ShutdownError,
    ThreadsExhaustedError,
    TransferError,
    TypeMismatchError,
    ValidationError,
    ValueReleasedError,
    WorkerCrashedError,
    WorkflowError,
)
from pmflow.events import Event
from pmflow.graph import Graph
from pmflow.limits import Limit, Rate
from pmflow.outcomes import ProcessState
from pmflow.results import ProcessMetadata, ProcessResult, Run
from pmflow.runner import arun, run
from pmflow.streaming import ResultStream, stream
from pmflow.subgraphs import SubgraphProcess
from pmflow.workflow import Workflow, WorkflowNode, WorkflowPoolManager, create_workflow

__all__ = [
    "BaseProcess",
    "CommandError",
    "Comparison",
    "ConfigurationError",
    "Current",
    "CycleError",
    "DuplicateProcessError",
    "Event",
    "Explanation",
    "FunctionProcess",
    "Graph",
    "GraphError",
    "InputError",
    "Limit",
    "MissingDependencyError",
    "NoCurrentProcessError",
    "NoValueError",
    "ParameterOrigin",
    "PerformanceWarning",
    "Plan",
    "PmflowError",
    "ProcessCancelledError",
    "ProcessConfig",
    "ProcessError",
    "ProcessId",
    "ProcessMetadata",
    "ProcessResult",
    "ProcessState",
    "ProcessTimeoutError",
    "ProcessType",
    "Rate",
    "ResultStream",
    "RetryStrategy",
    "Run",
    "RunTimeoutError",
    "ShutdownError",
    "SubgraphProcess",
    "ThreadsExhaustedError",
    "TransferError",
    "TypeMismatchError",
    "ValidationError",
    "ValueReleasedError",
    "WorkerCrashedError",
    "Workflow",
    "WorkflowError",
    "WorkflowNode",
    "WorkflowPoolManager",
    "arun",
    "carry",
    "command",
    "compare",
    "create_workflow",
    "cross",
    "current",
    "process",
    "run",
    "stream",
]
