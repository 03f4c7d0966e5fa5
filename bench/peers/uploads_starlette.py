"""Receives uploads with Starlette under uvicorn, and stores them on disk as safely as actorchat does."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

folder = Path(tempfile.mkdtemp())


def store(source: BinaryIO) -> str:
    name = uuid4().hex
    with (folder / f"{name}.part").open("wb") as target:
        shutil.copyfileobj(source, target, 262_144)
        target.flush()
        os.fsync(target.fileno())
    (folder / f"{name}.part").rename(folder / name)
    return name


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file = form["file"]
        assert isinstance(file, UploadFile)
        return JSONResponse({"uuid": await run_in_threadpool(store, file.file)}, 201)


try:
    app = Starlette(routes=[Route("/api/attachments", upload, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
finally:
    shutil.rmtree(folder)
