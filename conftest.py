"""Shared by every test and by nbval: no network, the same random examples every time, stderr not compared."""

import ipaddress
import os
import socket

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
# Arrow's allocator starts a thread when it is loaded. A child forked beside that thread may inherit a lock that nobody
# will release (jemalloc#2402): it would wait for ever.
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
os.environ.setdefault("MPLBACKEND", "Agg")
ASKED_STRICT = os.environ.get("WEEK6_STRICT", "")

import pytest  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
# Where only the verdict counts, a failing example need not be made small.
settings.register_profile("verdict", settings.get_profile("deterministic"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "deterministic"))


def pytest_configure(config):
    """The kernels of nbval draw into the notebook; everything else draws into memory."""
    if config.getoption("nbval", False):
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


def pytest_collectstart(collector):
    """Warnings and progress bars differ between machines; nbval skips images by itself."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """nbval starts a notebook's kernel at its first cell. Where the answers stand in it, each must be correct."""
    if item.config.getoption("nbval", False):
        strict = "1" if item.path.parent.name == "solutions" else ASKED_STRICT
        os.environ["WEEK6_STRICT"] = strict


def is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A connection that would leave this machine fails the test. Kernels and servers on loopback may talk."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise RuntimeError(f"a test tried to reach {address}; tests run without a network")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
