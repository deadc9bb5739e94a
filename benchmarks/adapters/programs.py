"""Fresh programs: isolated from one another, in an empty folder, for so long and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import peak_memory
import rows

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HAMILTON_TELEMETRY_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "DO_NOT_TRACK": "1",
}
"""Nobody is told what is measured here, and nothing but what is measured is done."""


class TooLongError(Exception):
    """The program was not done in time."""


def fresh(code: str, limit: float) -> str:
    """Return what a fresh program prints; where it and all that it has started go on, they are killed.

    Args:
        code: of the program, which some libraries import again in their workers.
        limit: the seconds it has.

    Raises:
        TooLongError: it was not done by then.
        ChildProcessError: it did not end well; the message is the last of what it had to say.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, out, problems = (Path(folder, name) for name in ("program.py", "out", "problems"))
        path.write_text(code, encoding="utf-8")  # a file, as programs are: redun and others read the source
        commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # Parsl's workers
        place = {"PREFECT_HOME": f"{folder}/prefect", "REDUN_CONFIG": f"{folder}/redun", "PATH": commands}
        with out.open("wb") as output, problems.open("wb") as errors:
            running = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, str(path)],
                env={**rows.surroundings(), **SETTINGS, **place},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,  # files: pipes are held open by services that live on
                stderr=errors,
                start_new_session=True,
            )
            status = ended(running, limit)
        if status:
            said = problems.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ChildProcessError(said[-1] if said else f"ended with {status}")
        return out.read_text(encoding="utf-8", errors="replace")


def ended(running: subprocess.Popen[bytes], limit: float) -> int:
    """Return the exit status of a program, after which nothing of its session is left."""
    try:
        return running.wait(limit)
    except subprocess.TimeoutExpired:
        for pid in peak_memory.family(running.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.wait()
        raise TooLongError(f"over {limit:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
