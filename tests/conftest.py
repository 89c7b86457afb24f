"""What all tests stand on: no display, no network, caches of their own, one thread."""

import os
from collections.abc import Iterator

import jaxtyping
import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caption embeddings are kept for this session only, so that no test leans on an old one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EASYTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def types_unchecked() -> Iterator[None]:
    """As a user runs the library: tests check types of all arguments, and would be first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
