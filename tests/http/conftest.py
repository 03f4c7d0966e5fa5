"""The API under test: the same over every storage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actorchat.server.settings import LimitSettings, Settings
from tests.server.running import SECRET, Api, running


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    settings = Settings(
        storage="memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db",
        data=tmp_path,
        port=0,
        secret=SECRET,
        origins=("https://shop.example",),
        limits=LimitSettings(messages_per_second=0),
    )
    async with running(settings) as api:
        yield api
