"""A pipeline of documents with the programs that every Linux has: copied, compressed, checksummed, their words counted.

    python examples/documents.py [document ...] [--into folder] [--word process]

Without documents it takes texts of this checkout, and one that is not there. A document that fails is named at the end,
with the exit code and what its program said; the others do not notice.

What it shows:

- `command`: a program as a process. Its placeholders are its parameters, so programs and functions feed one another;
  there is no shell, and nothing in a name has a meaning, neither a blank nor a quotation mark;
- ``map_over``: each document goes its own way, and is checksummed while others are still compressed;
- ``returns="{target}"``: the value of a program that writes a file is the file;
- ``stdin="{plain}"``: what a shell writes as ``tr | grep | sort | uniq``, each stage with a result of its own;
- ``ok_codes=(0, 1)``: grep says 1 where it finds nothing, which is no failure;
- ``required=False`` and ``list[ProcessResult]``: the report has what became of each document;
- `current`: inside a process, which element it is.

From a program of your own, the module is the graph:

    pmflow.run(documents, inputs={"sources": [Path("a.txt")], "folder": Path("archive"), "word": "process"})
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import pmflow
from pmflow import ProcessResult, command, current, process

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["README.md", "CHANGELOG.md", "LICENSE", "no such document.md", "examples/quickstart.py", "examples/census.py"]

# Each document becomes an archive with a checksum


@process(map_over={"source": "sources"}, type="async")
def target(source: Path, folder: Path) -> Path:
    """Say where a copy goes: two documents of one name have different numbers."""
    return folder / f"{current().index}-{source.name}"


copy = command(
    ["cp", "--", "{source}", "{target}"],
    id="copy",
    returns="{target}",
    map_over={"source": "sources", "target": "target"},
    required=False,
)

archive = command(
    ["gzip", "-9", "-n", "-f", "--", "{copy}"],
    id="archive",
    returns="{copy}.gz",
    map_over="copy",
    required=False,
    timeout=60,
)

checksum = command(["sha256sum", "--", "{archive}"], id="checksum", map_over="archive", required=False)


@process
def checksums(checksum: list[str], folder: Path) -> str:
    """Write the checksums of all archives into one file, for whoever gets the folder; gives its name."""
    lines = [line.split("  ", 1) for line in checksum]
    text = "".join(f"{digest}  {Path(path).name}" for digest, path in lines)
    (folder / "SHA256SUMS").write_text(text, encoding="utf-8")
    return "SHA256SUMS"


# It says 1 where an archive is not what it was: the report counts those that are.
verified = command(
    ["sha256sum", "-c", "{checksums}"],
    id="verified",
    cwd="{folder}",
    env={"LC_ALL": "C"},
    ok_codes=(0, 1),
)

# Each document's words are counted

plain = command(["cat", "--", "{source}"], id="plain", map_over={"source": "sources"}, required=False, limit=4)
small = command(["tr", "A-Z", "a-z"], id="small", stdin="{plain}", map_over="plain", required=False)
words = command(
    ["grep", "-o", "-E", "[a-z]+"],
    id="words",
    stdin="{small}",
    map_over="small",
    ok_codes=(0, 1),
    required=False,
)
in_order = command(["sort"], id="in_order", stdin="{words}", map_over="words", required=False)
counts = command(["uniq", "-c"], id="counts", stdin="{in_order}", map_over="in_order", required=False)

mentions = command(
    ["grep", "-c", "-i", "-F", "--", "{word}", "{source}"],
    id="mentions",
    map_over={"source": "sources"},
    ok_codes=(0, 1),
    required=False,
)


@process
def report(
    sources: list[Path],
    archive: list[ProcessResult[str]],
    counts: list[ProcessResult[str]],
    mentions: list[ProcessResult[str]],
    verified: str,
) -> str:
    """Say what became of each document, and how many archives are what was written."""
    lines = ["   bytes  archive   words  distinct  lines with the word  document"]
    for source, packed, counted, mentioned in zip(sources, archive, counts, mentions, strict=True):
        if packed.success and counted.success and mentioned.success:
            numbers = [int(line.split()[0]) for line in counted.data.splitlines()]
            size, smaller = source.stat().st_size, Path(packed.data).stat().st_size
            columns = f"{size:8,} {smaller / max(size, 1):8.0%} {sum(numbers):7,} {len(numbers):9,}"
            lines.append(f"{columns} {int(mentioned.data):20,}  {source.name}")
        else:
            lines.append(f"{'failed':>8} {'':46}  {source.name}")
    return "\n".join([*lines, "", f"Archives that are as they were written: {verified.count(': OK')}"])


def main() -> None:
    """Archive documents, and print what became of them."""
    parser = argparse.ArgumentParser(description="Archive documents, and count their words.")
    parser.add_argument("sources", type=Path, nargs="*", metavar="document", default=[ROOT / text for text in TEXTS])
    parser.add_argument("--into", type=Path, help="the folder for the archives; without it, one that is then deleted")
    parser.add_argument("--word", default="process", help="what is looked for")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = (arguments.into or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        inputs = {"sources": [path.resolve() for path in arguments.sources], "folder": folder, "word": arguments.word}
        run = pmflow.run(report, inputs=inputs)
        print(run.value)
        print("\nFailed:", *[f"{name}: {result.error}" for name, result in sorted(run.failures.items())], sep="\n  ")


if __name__ == "__main__":
    main()
