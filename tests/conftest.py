"""What every test gets: shapes checked at run time, no network, fixed seeds, one thread."""

import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

# Helpers stand beside the tests that use them; the test files themselves may share names.
TESTS = Path(__file__).parent
sys.path += sorted({str(path.parent) for path in TESTS.rglob("*.py") if path.parent != TESTS})

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if os.environ.get("HYDRAHEAD_NO_TYPECHECK") != "1":
    from jaxtyping import install_import_hook

    # Stays for the whole run: modules are imported all along, and each one is checked.
    install_import_hook("hydrahead", "shape_checker.check")

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "hydrahead", deadline=None, derandomize=True, database=None, max_examples=50
)
hypothesis.settings.load_profile("hydrahead")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """The same numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails; this machine's own addresses stay open."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise RuntimeError(f"tests must not use the network (tried {address})")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
