"""What every test shares: the event loops that asynchronous tests run on."""

from typing import Any

import pytest
from hypothesis import settings
from trio.testing import MockClock

# The machines that run these tests are shared and noisy: a slow example is no failure.
settings.register_profile("pmflow", deadline=None)
settings.load_profile("pmflow")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each asynchronous test on asyncio and on trio, unless a mark of its own says what else."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    if any("anyio_backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")):
        return
    virtual = metafunc.definition.get_closest_marker("virtual_time")
    metafunc.parametrize("anyio_backend", ["virtual"] if virtual else ["asyncio", "trio"], indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of one asynchronous test: a fresh one, and with ``virtual_time`` a fresh clock too."""
    if request.param == "virtual":
        return "trio", {"clock": MockClock(autojump_threshold=0)}
    return request.param, {}
