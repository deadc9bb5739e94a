"""Processes as classes, added to a workflow one by one: which compressor makes the most of a text?

python examples/class_processes.py
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from pathlib import Path
from typing import Any

from pmflow import BaseProcess, ProcessConfig, ProcessId, ProcessResult, ProcessType, RetryStrategy, Workflow

METHODS = ("zlib", "bz2", "lzma")


class Sample(BaseProcess[bytes]):
    """Reads a text: in a thread. Without dependencies, its input data is what the workflow is given in its name."""

    def __init__(self) -> None:
        super().__init__(
            ProcessConfig(
                process_id="sample",
                process_type=ProcessType.THREAD,
                retry_strategy=RetryStrategy(max_retries=2, delay_seconds=0.1, retry_on=(OSError,)),
            )
        )

    def process(self, input_data: Path) -> bytes:
        """Override this one to write plainly what is to be done."""
        return input_data.read_bytes()


class Compression(BaseProcess[float]):
    """Compresses the text: in a worker process, which is killed after a minute."""

    def __init__(self, method: str) -> None:
        super().__init__(ProcessConfig(process_id=ProcessId(method), process_type=ProcessType.PROCESS, timeout=60))
        self.method = method

    def process(self, input_data: dict[str, ProcessResult[Any]]) -> float:
        """Take the text from the result it depends on, and return what is left of it."""
        text = self.get_process_result(input_data, "sample")
        compressed = importlib.import_module(self.method).compress(text)
        return len(compressed) / len(text)


class Choice(BaseProcess[str]):
    """Picks the best: on the event loop."""

    def __init__(self) -> None:
        super().__init__(ProcessConfig(process_id="choice", process_type=ProcessType.ASYNC))

    async def execute(self, input_data: dict[str, ProcessResult[float]]) -> str:
        """Override this one instead to write a coroutine."""
        shares = {name: result.data for name, result in input_data.items()}
        return min(shares, key=lambda name: shares[name])


async def main() -> None:
    """Build the workflow, execute it, and run one of its processes once more, on its own."""
    text = Path(argparse.__file__)
    with Workflow(process_id="compressors", max_processes=2) as workflow:
        sample = Sample().register_to(workflow)
        compressions = [Compression(method).register_to(workflow, dependencies=[sample.id]) for method in METHODS]
        Choice().register_to(workflow, dependencies=METHODS)
        results = await workflow.execute({"sample": text})

    for compression in compressions:
        print(f"{compression.id}: {compression.metadata.state.value}, {results[compression.id].data:.0%} of the size")
    print(f"the best: {results['choice'].data}")

    alone = await Sample().run(text.with_name("no such file"))
    print(f"alone: success={alone.success}, {alone.error_type} after {alone.attempts} attempts")


if __name__ == "__main__":
    asyncio.run(main())
