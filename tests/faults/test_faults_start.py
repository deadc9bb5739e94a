"""W18: however the program is started, process work needs no guard, no file and no import of `__main__`."""

from __future__ import annotations

import sys
import textwrap

from harness import run_program

SCRIPT = """
import os
import pmflow
from pmflow import process

print("top level")
SCALE = 10

class Point:
    def __init__(self, x):
        self.x = x

@process(type="process")
def point(x):
    return Point(x * SCALE), os.getpid()

@process(type="process", map_over={"n": "numbers"})
def square(n):
    return n * n

@process
def total(square, point):
    made, worker = point
    assert worker != os.getpid()
    return sum(square) + made.x

print(pmflow.run(total, inputs={"x": 4, "numbers": [1, 2, 3]}).value)
"""
PRINTS = "top level\n54\n"


def test_w18_a_script_without_a_guard() -> None:
    """A script's process work runs in workers although nothing guards its top level, which runs once."""
    assert run_program([sys.executable, "script.py"], files={"script.py": SCRIPT}).stdout == PRINTS


def test_w18_a_script_with_a_guard() -> None:
    """The guard that other libraries ask for does no harm."""
    head, separator, tail = SCRIPT.rpartition("print(pmflow")
    guarded = head + 'if __name__ == "__main__":\n    ' + separator + tail
    assert run_program([sys.executable, "script.py"], files={"script.py": guarded}).stdout == PRINTS


def test_w18_python_dash_c() -> None:
    """`python -c` has no file to import again."""
    assert run_program([sys.executable, "-c", SCRIPT]).stdout == PRINTS


def test_w18_python_dash_m() -> None:
    """`python -m package.module`, with a helper beside it in the package."""
    files = {
        "package/__init__.py": "",
        "package/helper.py": "def twice(n):\n    return 2 * n\n",
        "package/tool.py": SCRIPT.replace("return n * n", "return twice(n)").replace(
            "import os\n", "import os\nfrom .helper import twice\n", 1
        ),
    }
    assert run_program([sys.executable, "-m", "package.tool"], files=files).stdout == "top level\n52\n"


def test_w18_a_program_on_stdin() -> None:
    """`python < script.py`: `__main__` has no file."""
    assert run_program([sys.executable, "-"], input=SCRIPT).stdout == PRINTS


def test_w18_a_repl() -> None:
    """Typed into `python -i`, definitions changed and run again."""
    typed = SCRIPT.replace("\n\n", "\n") + textwrap.dedent(
        """
        @process(type="process", map_over={"n": "numbers"})
        def square(n):
            return n * n * n

        print(pmflow.run(total, inputs={"x": 4, "numbers": [1, 2, 3]}).value)
        """
    )
    blocks = typed.replace("\n@process", "\n\n@process").replace("\nclass", "\n\nclass").replace("\nprint", "\n\nprint")
    finished = run_program([sys.executable, "-i", "-q"], input=blocks, stderr=r"[>. \n]*")
    assert finished.stdout == PRINTS + "76\n"


def test_w18_a_path_with_spaces() -> None:
    """Neither the folder nor the name of a script is taken apart."""
    finished = run_program(
        [sys.executable, "my script.py"], files={"my script.py": SCRIPT}, folder="a folder with ünusual 'names'"
    )
    assert finished.stdout == PRINTS


def test_w18_a_module_beside_the_script() -> None:
    """Functions of a module that only the script's folder makes importable reach the workers too."""
    head, _, tail = SCRIPT.partition('print("top level")')
    files = {
        "flow.py": head + tail.rpartition("print(pmflow")[0],
        "script.py": 'import flow, pmflow\nprint(pmflow.run(flow, inputs={"x": 4, "numbers": [1, 2, 3]}).value)\n',
    }
    assert run_program([sys.executable, "script.py"], files=files).stdout == "54\n"


CELLS = '''
import asyncio
import code
import textwrap

CELLS = [
    """
    import os, pmflow
    from pmflow import process
    factor = 2
    """,
    """
    @process(type="process")
    def words(text):
        return [word * factor for word in text.split()], os.getpid()
    """,
    """
    @process
    def count(words):
        return len("".join(words[0]))
    """,
    """print(pmflow.run(count, inputs={"text": "a bc"}).value)""",
    """factor = 3""",
    """print(pmflow.run(count, inputs={"text": "a bc"}).value)""",
    """
    @process(type="process")
    def words(text):
        return [text], os.getpid()
    """,
    """print(pmflow.run(count, inputs={"text": "a bc"}).value)""",
]


async def notebook():
    cells = code.InteractiveInterpreter({"__name__": "__main__", "__builtins__": __builtins__})
    for number, cell in enumerate(CELLS):
        cells.runsource(textwrap.dedent(cell).strip() + "\\n", f"<cell {number}>", "exec")
        await asyncio.sleep(0)


asyncio.run(notebook())
'''


def test_w18_a_notebook() -> None:
    """Cells that run inside a running loop: `run` works there, and what a cell changes counts in the next."""
    finished = run_program([sys.executable, "notebook.py"], files={"notebook.py": CELLS})
    assert finished.stdout == "6\n9\n4\n"
