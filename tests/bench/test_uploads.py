"""The benchmark of attachments counts only files that the server has stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actorchat import AttachmentSettings, Settings, open_server
from actorchat.protocol import Role, User
from bench.uploads import _seconds, _uploader


async def test_uploads_are_stored_and_a_refused_one_ends_the_measurement(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, port=0, attachments=AttachmentSettings(size=100_000))
    async with open_server(settings) as server:
        token = server.issue_token(User(7, Role.USER))
        upload = _uploader(server.port, f"Authorization: Bearer {token}\r\n")
        assert await trio.to_thread.run_sync(_seconds, upload, b"x" * 100_000, 5, 2) > 0
        assert len(list((tmp_path / "attachments").glob("??/*"))) == 5
        with pytest.raises(RuntimeError, match="413"):
            await trio.to_thread.run_sync(upload, b"x" * 100_001)
