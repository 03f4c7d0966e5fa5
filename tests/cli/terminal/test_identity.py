import base64
import json
from pathlib import Path

import pytest

from actorchat.cli.terminal.identity import (
    IdentityError,
    VisitorTokens,
    default_state_file,
    make_operator_token,
    user_in_token,
)
from actorchat.protocol.entities import Role, User
from actorchat.server.auth import ensure_secret


def token(**claims: object) -> str:
    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x"


def test_visitor_identities_are_stored_by_server_and_source(tmp_path: Path) -> None:
    tokens = VisitorTokens(tmp_path / "deep" / "visitors.json")
    assert tokens.load("http://a", "lk") is None
    tokens.save("http://a", "lk", "one")
    tokens.save("http://a", "shop", "two")
    assert tokens.load("http://a", "lk") == "one"
    assert tokens.load("http://a", "shop") == "two"
    assert tokens.load("http://b", "lk") is None


def test_only_the_user_may_read_the_identity_file(tmp_path: Path) -> None:
    tokens = VisitorTokens(tmp_path / "visitors.json")
    tokens.save("http://a", "lk", "one")
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["visitors.json"]


@pytest.mark.parametrize("content", ["{", "[]", '"x"'])
def test_a_damaged_identity_file_is_named_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "visitors.json"
    path.write_text(content)
    with pytest.raises(IdentityError, match=r"visitors\.json is damaged"):
        VisitorTokens(path).load("http://a", "lk")
    assert path.read_text() == content


def test_an_identity_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot"):
        VisitorTokens(tmp_path / "file" / "visitors.json").save("http://a", "lk", "one")


def test_the_identity_file_is_in_the_platforms_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_state_file() == tmp_path / "actorchat" / "visitors.json"


def test_an_operator_beside_the_server_makes_its_own_token(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    made = make_operator_token(tmp_path, None, 9, "Olga", "lk")
    assert user_in_token(made) == User(9, Role.OPERATOR, firstname="Olga")


def test_a_folder_without_a_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="has no secret of a server"):
        make_operator_token(tmp_path, None, 9, "Olga", "lk")


@pytest.mark.parametrize(
    "bad", ["", "abc", "a.b.c", token(sub="x", role="user"), token(sub="1", role="boss"), token(), "a.W10.c"]
)
def test_an_invalid_token_is_named(bad: str) -> None:
    with pytest.raises(IdentityError, match="no token"):
        user_in_token(bad)
