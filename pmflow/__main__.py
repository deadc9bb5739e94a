"""``python -m pmflow`` is the command ``pmflow``."""

from pmflow.cli import main

main()
