"""Worker processes: what a crash costs, what travels, what is left, and what comes back.

    python examples/worker_processes.py

Each call below does to its worker what code in the wild does: it dies, leaves a child behind, changes the folder, logs.
"""

import logging
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pmflow
from pmflow import process

logging.basicConfig(format="%(levelname)s of %(process_id)s, attempt %(attempt)d: %(message)s", stream=sys.stdout)


@process(type="process", crash_retries=1)
def measured(folder: str) -> int:
    """Die the first time, as C code does when it gives up; the second attempt is right."""
    mark = Path(folder, "been here")
    if not mark.exists():
        mark.touch()
        os._exit(3)
    return 42


@process(type="process")
def untidy(folder: str) -> int:
    """Leave a child behind, and be somewhere else; the next call finds neither."""
    os.chdir(folder)
    logging.getLogger("untidy").warning("a child is left behind")
    subprocess.run(f"{sys.executable} -c 'import time; time.sleep(600)' &", shell=True, check=True)  # noqa: S602 - on purpose
    return os.getpid()


@process(type="process")
def table(size: int = 4_000_000) -> bytearray:
    """Make something large: it is in memory once, and never opened in this program."""
    return bytearray(size)


@process(type="process")
def total(table: bytearray, untidy: int) -> tuple[int, str]:
    """Use it in another worker, or in the same."""
    table[0] = untidy % 2  # a copy of one page: the table is nobody else's
    return len(table), str(Path.cwd())


def main() -> None:
    """Run them, and say what became of them."""
    with TemporaryDirectory() as folder:
        run = pmflow.run([measured, total], inputs={"folder": folder})
        print(f"measured {run[measured].data} in attempt {run[measured].attempts}")
        size, where = run[total].data
        print(f"{size:,} bytes; back in the program's folder: {where == str(Path.cwd())}")
        print(f"the worker that made them held at most {(run[table].peak_memory or 0) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
