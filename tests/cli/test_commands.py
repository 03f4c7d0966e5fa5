"""The commands token, check-config and asyncapi, and the help."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import NoEncryption

from actorchat.cli import _COMMANDS, main
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens, ensure_secret
from tests.server.server_under_test import SECRET
from tests.server.test_tls import certified


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACTORCHAT_")]:
        monkeypatch.delenv(name)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="actorchat")


def test_a_token_is_believed_by_the_server_of_the_folder(tmp_path: Path) -> None:
    secret = ensure_secret(tmp_path)
    options = ("--user-id", "7", "--source", "lk", "--source", "shop", "--firstname", "Olga", "--lastname", "Li")
    ended = run("token", "--role", "operator", *options, "--ttl", "30d", "--data", str(tmp_path))
    assert ended.exit_code == 0, ended.output
    claims = Tokens(secret).verify(ended.output.strip())
    assert claims.user == User(7, Role.OPERATOR, firstname="Olga", lastname="Li")
    assert claims.sources == frozenset({"lk", "shop"})


def test_a_token_is_signed_with_a_configured_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_SECRET", SECRET)
    ended = run("token", "--role", "user", "--user-id", "7")
    assert Tokens(SECRET).verify(ended.output.strip()).user.id == 7


def test_without_a_server_there_is_no_token(tmp_path: Path) -> None:
    ended = run("token", "--role", "user", "--user-id", "7", "--data", "nowhere")
    assert ended.exit_code == 1
    assert ended.output == (
        "actorchat: nowhere has no secret: the server creates it when it first starts. Is --data the right folder?\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ("--role", "admin", "--user-id", "1"),
        ("--role", "user", "--user-id", "-1"),
        ("--role", "user", "--user-id", str(2**52)),
        ("--role", "user", "--user-id", "1", "--ttl", "1x"),
        ("--role", "user", "--user-id", "1", "--ttl", "0"),
        ("--role", "user", "--user-id", "1", "--source", "A"),
        ("--role", "user"),
    ],
)
def test_a_token_without_a_user_is_refused(wrong: tuple[str, ...]) -> None:
    assert run("token", *wrong).exit_code == 2


def test_a_token_of_an_operator_without_a_source_is_refused_and_says_what_to_add(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    command = ("token", "--role", "operator", "--user-id", "7", "--data", str(tmp_path))
    ended = run(*command)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "add --source lk" in ended.stderr
    (tmp_path / "c.toml").write_text("[sources.shop]\n")
    assert "add --source shop" in run(*command, "--config", str(tmp_path / "c.toml")).stderr


def test_a_token_names_only_sources_that_the_settings_have(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    (tmp_path / "c.toml").write_text("[sources.shop]\n[sources.lk]\n")
    command = ("token", "--role", "operator", "--user-id", "7", "--data", str(tmp_path), "--config", "c.toml")
    ended = run(*command, "--source", "lk", "--source", "shpo")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "shpo is not among the sources in the settings: shop, lk" in ended.stderr
    assert run(*command, "--source", "lk").exit_code == 0


def test_the_largest_id_of_a_token_is_below_those_of_anonymous_visitors() -> None:
    ended = run("token", "--role", "user", "--user-id", str(2**52))
    assert f"0<=x<={2**52 - 1}" in ended.stderr


def test_check_config_reports_every_fault(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("prot = 1\nworkers = 0\n")
    ended = run("check-config", "--config", str(config))
    assert ended.exit_code == 2
    assert [line.split(":")[1].strip() for line in ended.output.splitlines()] == ["prot", "workers"]


def test_check_config_looks_into_the_files(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    (tmp_path / "c.toml").write_text('public_key = "bad.pem"\ntls_cert = "bad.pem"\ntls_key = "bad.pem"\n')
    ended = run("check-config", "--config", "c.toml")
    assert ended.exit_code == 2
    assert [line.split(":")[1].strip() for line in ended.output.splitlines()] == ["tls_cert", "public_key"]


def test_check_config_reports_missing_files_with_all_other_faults(tmp_path: Path) -> None:
    ended = run("check-config", "--port", "x", "--tls-cert", "none.pem")
    assert ended.exit_code == 2
    assert ended.output.splitlines() == [
        "actorchat: port: expected a port, 0 to 65535, got x (from the command line)",
        "actorchat: tls_key: missing: TLS needs it together with tls_cert",
        "actorchat: tls_cert: the file none.pem does not exist",
    ]
    both = run("check-config", "--tls-cert", "none.pem", "--tls-key", "no-key.pem")
    assert [line.split(":")[1].strip() for line in both.output.splitlines()] == ["tls_cert", "tls_key"]


def test_check_config_looks_at_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    for folder in ("file", "file/below"):
        ended = run("check-config", "--data", folder)
        assert (ended.exit_code, ended.output) == (2, f"actorchat: data: {tmp_path / 'file'} is not a folder\n")
    # Root may write anywhere, so permissions are simulated.
    monkeypatch.setattr("os.access", lambda *_: False)
    ended = run("check-config", "--data", "new")
    assert (ended.exit_code, ended.output) == (2, f"actorchat: data: {tmp_path} is not writable\n")


def test_a_variable_that_is_no_setting_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_IMAGE", "x")
    ended = run("check-config")
    assert ended.exit_code == 0
    assert ended.stderr == (
        "actorchat: warning: ACTORCHAT_IMAGE is ignored: there is no such setting; the most similar is"
        " ACTORCHAT_STORAGE\n"
    )
    assert ended.stdout == "The settings are valid.\n"


def test_a_variable_set_by_kubernetes_is_a_warning_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_PORT", "tcp://10.0.0.1:8000")
    ended = run("check-config")
    assert ended.exit_code == 0
    assert ended.stderr == (
        "actorchat: warning: ACTORCHAT_PORT=tcp://10.0.0.1:8000 is ignored: set by Kubernetes or Docker for a service"
        " of that name; enableServiceLinks: false turns this off, --port and a settings file set the port\n"
    )


def test_check_config_looks_at_the_secret(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    ended = run("check-config", "--data", str(tmp_path))
    assert ended.exit_code == 2
    assert "secret: " in ended.stderr
    assert f"chmod 600 {tmp_path}/secret" in ended.stderr


def test_a_tls_key_that_everybody_may_read_is_a_warning(tmp_path: Path) -> None:
    settings = certified(tmp_path, NoEncryption())
    assert settings.tls_key is not None
    settings.tls_key.chmod(0o644)
    ended = run("check-config", "--tls-cert", str(settings.tls_cert), "--tls-key", str(settings.tls_key))
    assert ended.exit_code == 0
    assert ended.stderr == (
        f"actorchat: warning: tls_key: every user can read {settings.tls_key}: run chmod o-rwx {settings.tls_key}\n"
    )
    settings.tls_key.chmod(0o640)
    assert run("check-config", "--tls-cert", str(settings.tls_cert), "--tls-key", str(settings.tls_key)).stderr == ""


def test_check_config_leaves_nothing(tmp_path: Path) -> None:
    ended = run("check-config")
    assert (ended.exit_code, ended.output) == (0, "The settings are valid.\n")
    assert list(tmp_path.iterdir()) == []


def test_asyncapi_prints_the_document() -> None:
    assert json.loads(run("asyncapi").output)["asyncapi"].startswith("3.")


def test_the_help_shows_all_commands_and_nothing_else() -> None:
    shown = run("--help").output.partition("Commands:\n")[2].partition("\n\n")[0]
    commands = [line.split()[0] for line in shown.splitlines() if line[2:3].isalpha()]
    assert commands == list(_COMMANDS)


def test_the_help_says_in_whole_sentences_what_commands_do() -> None:
    assert "..." not in run("--help").output.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["serve", "token", "check-config", "asyncapi", "migrate"])
def test_every_command_explains_itself_with_examples(command: str) -> None:
    output = run(command, "--help").output
    assert f"actorchat {command}" in output.partition("Example")[2]


def test_an_unknown_command_is_named() -> None:
    ended = run("sevre")
    assert ended.exit_code == 2
    assert "No such command 'sevre'" in ended.output
