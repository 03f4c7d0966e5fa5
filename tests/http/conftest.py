"""Runs the API tests over each storage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, run_server


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ApiClient]:
    settings = Settings(
        storage="memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/chat.db",
        data=tmp_path,
        port=0,
        secret=SECRET,
        origins=("https://shop.example",),
        limits=LimitSettings(messages_per_second=0),
    )
    async with run_server(settings) as api:
        yield api
