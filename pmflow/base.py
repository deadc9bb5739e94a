"""`BaseProcess`: the seed of every process, and the class-based way to write one.

A process is a declaration: it knows nothing of how it is run. Running one on its own (``await process.run(x)``) goes
through a *launcher*, which the runner installs when it is imported, so that imports only point down.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic

from pmflow.config import ProcessConfig, ProcessId, ProcessType
from pmflow.errors import ConfigurationError
from pmflow.outcomes import ProcessState
from pmflow.results import ProcessMetadata, ProcessResult

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    from pmflow.workflow import Workflow

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["BaseProcess", "ProcessId"]

Launcher = Callable[["BaseProcess[Any]", Callable[..., Any], Any], Awaitable[ProcessResult[Any]]]
_launcher: list[Launcher] = []


def install_launcher(launcher: Launcher) -> None:
    """Say what runs a process on its own."""
    _launcher[:] = [launcher]


class BaseProcess(ABC, Generic[T]):
    """A process written as a class.

    Override one of two methods:

    - ``process(self, input_data)``, plain or ``async``: what is to be done;
    - ``async execute(self, input_data)``: the same, always a coroutine.

    In a graph, ``input_data`` maps the id of each dependency to its `ProcessResult` (read by `get_process_result`); a
    process without dependencies gets the input of its own name. The strategy (``config.process_type``) says where the
    method is run.

    Args:
        config: its settings.

    Attributes:
        config: its settings.
        metadata: its state and last result, when it is run on its own or by `Workflow.execute`.

    Raises:
        ConfigurationError: ``config`` is no `ProcessConfig`, or sets what cannot work.

    >>> import anyio
    >>> class Double(BaseProcess):
    ...     def process(self, input_data):
    ...         return input_data * 2
    >>> anyio.run(Double(ProcessConfig(process_id="double")).run, 21).data
    42
    """

    def __init__(self, config: ProcessConfig) -> None:
        if not isinstance(config, ProcessConfig):  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is checked
            raise ConfigurationError(f"{type(self).__name__} needs a ProcessConfig, not {config!r}")
        if config.map_over is not None:
            raise ConfigurationError(
                f"'{config.process_id}': map_over maps a function over the elements of what feeds a parameter, and a "
                f"class-based process has none; make a process of a function",
                process_id=str(config.process_id),
                setting="map_over",
            )
        if config.outputs:
            raise ConfigurationError(
                f"'{config.process_id}': outputs are elements of what a function returns, and a class-based process "
                f"has none; make a process of a function, or one that takes each of them out",
                process_id=str(config.process_id),
                setting="outputs",
            )
        self.config = config
        self.metadata = ProcessMetadata(process_id=config.process_id)
        self._workflow: Workflow | None = None

    @property
    def id(self) -> str:
        """The key of this process in graphs and runs: ``str(config.process_id)``."""
        try:
            return str(self.config.process_id)
        except AttributeError:
            name = type(self).__name__
            raise ConfigurationError(
                f"{name} has no config; call super().__init__(ProcessConfig(...)) in {name}.__init__"
            ) from None

    # What subclasses write

    def process(self, input_data: Any) -> Any:
        """Do the work; to be overridden, plain or ``async``.

        Args:
            input_data: the results of the dependencies by id, or the input.

        Raises:
            NotImplementedError: a subclass overrides neither this nor ``execute``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement process() or execute()")

    async def execute(self, input_data: Any) -> Any:
        """Run ``process`` by the configured strategy; to be overridden by subclasses that prefer it to ``process``.

        Args:
            input_data: what ``process`` receives.

        Returns:
            The `ProcessResult`, of a failure too.
        """
        return await self._launch(self.process, input_data)

    async def run(self, input_data: Any) -> ProcessResult[T]:
        """Run this process on its own, by its strategy, with its timeout and its retries.

        Args:
            input_data: what ``process`` or ``execute`` receives.

        Returns:
            The result; of a failure too: ``result.unwrap()`` raises it.
        """
        self.metadata = ProcessMetadata(self.config.process_id, state=ProcessState.RUNNING)
        try:
            result = await self._launch(self.entry, input_data)
        except BaseException:
            self.metadata.state = ProcessState.CANCELLED
            raise
        self.metadata = result.metadata
        return result

    @property
    def entry(self) -> Callable[..., Any]:
        """What an executor calls: the overridden ``execute``, or ``process``."""
        return self.process if type(self).execute is BaseProcess.execute else self.execute

    async def _launch(self, function: Callable[..., Any], input_data: Any) -> ProcessResult[T]:
        return await _launcher[0](self, function, input_data)

    @classmethod
    def get_process_result(cls, input_data: dict[str, Any], process_id: ProcessId | str) -> Any:
        """Return the data of a dependency.

        Args:
            input_data: id to `ProcessResult`.
            process_id: the dependency.

        Raises:
            ValueError: it is not there, did not succeed, or is no `ProcessResult`.
        """
        key = str(process_id)
        if key not in input_data:
            raise ValueError(f"Required process {key} not found in input data")
        result = input_data[key]
        if not isinstance(result, ProcessResult):
            raise ValueError(f"Expected a ProcessResult for {key}, got {type(result).__name__}")  # noqa: TRY004 - the seed
        if not result.success:
            raise ValueError(f"Process {key} did not complete successfully: {result.error or result.reason}")
        return result.data

    # In a workflow

    def register_to(
        self,
        workflow: Workflow,
        dependencies: Sequence[str | ProcessId] | None = None,
        required: bool = True,  # noqa: FBT001, FBT002 - the seed's signature
    ) -> Self:
        """Add this process to a workflow, and return it.

        Args:
            workflow: the workflow.
            dependencies: ids of the processes it depends on.
            required: False: its failure gives no value instead of failing what depends on it.
        """
        workflow.register(self, dependencies or (), required=required)
        return self

    def set_workflow(self, workflow: Workflow) -> None:
        """Remember the workflow; called by it when the process is added."""
        self._workflow = workflow

    # As a declaration

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a worker without the workflow."""
        return {**self.__dict__, "_workflow": None}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{self.id}' {self.strategy.value}>"

    @property
    def strategy(self) -> ProcessType:
        """How it is executed."""
        return self.config.process_type
