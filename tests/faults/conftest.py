"""The fault campaign needs Linux: it looks into /proc and adopts orphans."""

from __future__ import annotations

import sys

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="needs /proc and PR_SET_CHILD_SUBREAPER"))
