"""Settings: their sources, their precedence, and the errors for invalid ones."""

import json
import string
from pathlib import Path
from random import Random

import pytest

from actorchat.chat.model import OnClosed
from actorchat.server.settings import ChatSettings, HttpSettings, InvalidSettings, LimitSettings, Settings
from actorchat.server.settings_loader import load_settings, unknown_variables
from tests.server.server_under_test import SECRET


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACTORCHAT_PORT", "ACTORCHAT_SECRET", "ACTORCHAT_DATA", "ACTORCHAT_STORAGE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"port": 65536}, "port: expected a port, 0 to 65535, got 65536"),
        ({"port": "eighty"}, "port: expected a port, 0 to 65535, got eighty"),
        ({"port": True}, "port: expected a port, 0 to 65535, got True"),
        ({"host": ""}, "host: expected a host name or address, got ''"),
        ({"storage": "mysql://x"}, "storage: expected sqlite:///path, postgresql://… or memory://, got mysql://x"),
        (
            {"storage": "sqlite:///:memory:"},
            "storage: expected sqlite:///path, postgresql://… or memory://, got sqlite:///:memory:",
        ),
        (
            {"broker": ["kafka://x"]},
            "broker: expected redis://, rediss://, amqp://, amqps://, nats://, tls:// or memory://, got kafka://x",
        ),
        ({"broker": "redis://:pw@h/x"}, "broker: expected the number of a database behind the host"),
        ({"broker": ["redis://h", "redis://:pw@h:6379?maxlen=5"]}, "broker: redis://h:6379 occurs twice"),
        ({"broker_keep": 5}, "broker_keep: expected a number of seconds, 60 to 1000000000, got 5"),
        ({"bus": "kafka://x"}, "bus: expected auto, local, postgres, postgresql://… or redis://…, got kafka://x"),
        ({"bus": "postgres"}, "bus: a bus connects servers on one PostgreSQL database: set storage to that"),
        ({"node_name": "a b"}, "node_name: expected up to 64 letters, digits and . _ -, or nothing, got 'a b'"),
        ({"transport": "fast"}, "transport: expected auto or reactor or trio-websocket, got fast"),
        (
            {"transport": "reactor", "tls_cert": "c.pem", "tls_key": "k.pem"},
            "transport: the reactor does not support TLS; with tls_cert, expected auto or trio-websocket",
        ),
        ({"workers": 0}, "workers: expected a number, 1 to 64, got 0"),
        ({"log_format": "xml"}, "log_format: expected text or json, got xml"),
        ({"tls_cert": "c.pem"}, "tls_key: missing: TLS needs it together with tls_cert"),
        (
            {"origins": "shop.example"},
            "origins: expected an origin like https://shop.example, with its scheme, got shop.example",
        ),
        (
            {"origins": ["https://b.example", "https://a.example/path"]},
            "origins: an origin must end with the host or port, without a path, got https://a.example/path",
        ),
        ({"origins": [3]}, "origins: expected origins like https://shop.example, got 3"),
        ({"sources": ["Shop"]}, "sources: expected names of a-z, 0-9, _ and -, at most 64 characters"),
        ({"sources": {"shop": {"on_closed": "queue"}}}, "sources: expected names of"),
        ({"attachments": {"size": 0}}, "attachments.size: expected "),
        ({"attachments": {"types": ["picture"]}}, "attachments.types: expected "),
        ({"attachments": {"url": "chat.example"}}, "attachments.url: expected "),
        ({"attachments": {"link_seconds": 5}}, "attachments.link_seconds: expected "),
        ({"attachments": {"scan": "clamdscan '"}}, "attachments.scan: expected "),
        (
            {"attachments": {"sources": {"shop": {"size": 0}}}},
            "attachments.sources.shop.size: expected a whole number of bytes, 1 to 1099511627776, got 0",
        ),
        (
            {"attachments": {"sources": {"shop": {"bytes": 5}}}},
            "attachments.sources: shop has no setting bytes: expected some of size, types, per_message",
        ),
        ({"attachments": {"sources": {"a b": {}}}}, "attachments.sources: expected tables like [attachments.sources."),
        ({"attachments": {"sources": "[]"}}, "attachments.sources: expected tables like [attachments.sources.shop]"),
        ({"attachments": {"sources": "shop"}}, "attachments.sources: expected tables like [attachments.sources.shop]"),
        ({"attachments": {"scan_url": "clamav:3310"}}, "attachments.scan_url: expected an address like http"),
        ({"attachments": {"scan_url": "http://clamav..lan/"}}, "attachments.scan_url: expected an address like http"),
        ({"attachments": {"scan_url": "http://xn--a/"}}, "attachments.scan_url: expected an address like http"),
        ({"attachments": {"scan_url": "http://cl*mäv/"}}, "attachments.scan_url: expected an address like http"),
        (
            {"attachments": {"scan": "clamdscan", "scan_url": "http://127.0.0.1/scan"}},
            "attachments.scan_url: expected nothing, because attachments.scan is set",
        ),
        ({"attachments": {"store": "s3://a"}}, "attachments.store: expected s3://bucket/prefix"),
        (
            {"attachments": {"store": "s3://key:pa/55@bucket"}},
            "attachments.store: write / in a key as %2F, got s3://key:***@bucket",
        ),
        (
            {"storage": "memory://", "attachments": {"store": "s3://bucket"}},
            "attachments.store: expected nothing, because memory:// keeps no record of the files in the bucket",
        ),
        ({"limits": {"burst": 0}}, "limits.burst: expected a number, 1 or more, got 0"),
        ({"limits": {"text_length": 10**6}}, "limits.text_length: expected a whole number, 1 to 16000"),
        ({"limits": {"messages_per_second": "nan"}}, "limits.messages_per_second: expected a number, 0 (off) or more"),
        ({"chat": {"on_closed": "explode"}}, "chat.on_closed: expected reopen or queue or refuse, got explode"),
        ({"chat": {"capacity": -1}}, "chat.capacity: expected a whole number, 0 (unlimited) or more, got -1"),
        ({"http": {"keep_alive": 0}}, "http.keep_alive: expected a number of seconds, 1 to 3600, got 0"),
        (
            {"http": {"trusted_proxies": ["10.0.0.0/8", "proxy.example", "::1"]}},
            "http.trusted_proxies: expected addresses or networks like 127.0.0.1 or 10.0.0.0/8, got proxy.example (",
        ),
        (
            {"http": {"cors_headers": "baggage, a b"}},
            "http.cors_headers: expected names of headers like traceparent, got 'a b' (from",
        ),
        ({"http": {"proxy_headers": "via"}}, "http.proxy_headers: expected x-forwarded or forwarded, got via"),
    ],
)
def test_a_bad_setting_is_named_with_what_would_be_legal(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(options=wrong)
    (fault,) = caught.value.faults
    assert str(fault).startswith(told)


def test_a_short_secret_is_refused_without_being_quoted() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings(secret="only31bytes-only31bytes-only31b")
    assert str(caught.value) == "secret: expected at least 32 bytes"


def test_an_error_about_an_origin_does_not_quote_its_password() -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(options={"origins": ["https://user:password@shop.example"]})
    assert str(caught.value) == "origins: an origin must not contain a user name or password (from the command line)"


@pytest.mark.parametrize("weak", ["k" * 32, "changeme" * 4, "0123" * 20, "secret secret secret secret secret "])
def test_a_secret_that_repeats_is_refused_without_being_quoted(weak: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings(secret=weak)
    assert str(caught.value) == "secret: expected random characters; this secret is easy to guess"


@pytest.mark.parametrize(
    "kind", ["-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"]
)
def test_a_key_of_another_kind_is_not_accepted_as_a_secret(kind: str) -> None:
    with pytest.raises(
        InvalidSettings, match="secret: expected random characters; this secret is a private or public key"
    ):
        Settings(secret=kind)


def test_random_secrets_are_strong_in_any_alphabet() -> None:
    random = Random(7)
    for alphabet in ("0123456789", "0123456789abcdef", string.ascii_letters):
        for _ in range(200):
            Settings(secret="".join(random.choices(alphabet, k=48)))


def test_a_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(Settings(secret=SECRET))


PASSWORDS = {
    "mysql://ann:pa55word@db/chats": "mysql://ann:***@db/chats",
    "mysql://ann:p@:5/5word@db.example:5432/chats?sslmode=require": (
        "mysql://ann:***@db.example:5432/chats?sslmode=require"
    ),
    "mysql://db/chats?user=ann&password=pa55word&x=1": "mysql://db/chats?user=ann&password=***&x=1",
    "redis://:pa55word@cache": "redis://***@cache",
    "https://pa55word@cache/": "https://***@cache/",
    "host=db sslpassword=pa55word user=ann": "'host=db sslpassword=*** user=ann'",
}


@pytest.mark.parametrize("name", ["storage", "bus", "host", "port", "transport", "log_format", "origins", "sources"])
@pytest.mark.parametrize("value", PASSWORDS)
def test_an_error_about_a_setting_does_not_quote_its_password(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "host":
        # Any text may be a host name; an invalid one fails when the server binds.
        value += "\0"
    monkeypatch.setenv("ACTORCHAT_LIMITS_BURST", value.rstrip("\0"))
    config = tmp_path / "c.toml"
    config.write_text(f"chat = {json.dumps(value)}\n[http]\nkeep_alive = {json.dumps(value)}\n")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(config, {name: value})
    assert "5word" not in str(caught.value)
    assert len(caught.value.faults) == 4


@pytest.mark.parametrize(("value", "shown"), PASSWORDS.items())
def test_a_url_is_shown_without_its_password_and_with_all_else(value: str, shown: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings(storage=value)
    assert str(caught.value) == f"storage: expected sqlite:///path, postgresql://… or memory://, got {shown}"


def test_a_repr_shows_no_password() -> None:
    assert "5word" not in repr(Settings(storage="sqlite:///x?password=pa55word", host="http://ann:pa55word@x"))
    assert "5word" not in repr(Settings(storage="postgresql://ann:pa55word@db/chats"))


def test_embedding_checks_the_same() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings(port=-1, chat=ChatSettings(capacity=-1), limits=LimitSettings(burst=0))
    assert [fault.name for fault in caught.value.faults] == ["port", "limits.burst", "chat.capacity"]


def test_a_setting_that_should_be_a_table_is_a_fault(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("chat = 3\n")
    with pytest.raises(InvalidSettings, match=r"chat: expected the table \[chat\], got 3"):
        load_settings(config)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[chat]\nqqqqqqqqqqqqqqqqq = 1", ["chat.capacity", "chat.on_closed"]),
        ("[chat.qqqqqqqqqqqqqqqqq]\nx = 1", ["chat.capacity", "chat.on_closed"]),
        ("qqq = 1", ["chat", "host", "port"]),
        ("[qqq]\nx = 1", ["chat", "http", "limits"]),
    ],
)
def test_a_fault_about_an_unknown_name_lists_those_in_its_table(text: str, expected: list[str], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(config)
    [fault] = map(str, caught.value.faults)
    listed = fault.partition("expected one of ")[2].partition(" (")[0].split(", ")
    assert set(expected) <= set(listed)
    assert len({name.rpartition(".")[0] for name in listed}) == 1


def test_a_table_is_taken_for_a_misspelt_table_only(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[nonsense]\nx = 1\n[limit]\nx = 1\n")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(config)
    first, second = map(str, caught.value.faults)
    assert "node_name" not in first
    assert "did you mean limits?" in second


def test_all_faults_of_all_sources_of_settings_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("prot = 1\nworkers = 0\n[limits]\nburts = 3\n[limit]\nburst = 1\n")
    monkeypatch.setenv("ACTORCHAT_CHAT_CAPACITY", "many")
    monkeypatch.setenv("ACTORCHAT_LIMITS_BURTS", "3")
    with pytest.raises(InvalidSettings) as caught:
        load_settings(config, {"bus": "kafka://x"})
    assert [str(fault) for fault in caught.value.faults] == [
        f"prot: there is no such setting: did you mean port? (from {config})",
        f"limits.burts: there is no such setting: did you mean limits.burst? (from {config})",
        f"limit: there is no such setting: did you mean limits? (from {config})",
        "ACTORCHAT_LIMITS_BURTS: there is no such setting: did you mean ACTORCHAT_LIMITS_BURST?",
        "bus: expected auto, local, postgres, postgresql://… or redis://…, got kafka://x (from the command line)",
        f"workers: expected a number, 1 to 64, got 0 (from {config})",
        "chat.capacity: expected a whole number, 0 (unlimited) or more, got many (from ACTORCHAT_CHAT_CAPACITY)",
    ]


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('port = 1\nhost = "file"\nlog_format = "json"\n[chat]\non_closed = "queue"\n')
    monkeypatch.setenv("ACTORCHAT_PORT", "2")
    monkeypatch.setenv("ACTORCHAT_HOST", "environment")
    settings = load_settings(config, {"port": 3, "host": None})
    assert (settings.port, settings.host, settings.log_format) == (3, "environment", "json")
    assert settings.chat.policy().on_closed is OnClosed.QUEUE


def test_lists_in_the_environment_are_split_on_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_ORIGINS", "https://a.example, http://b.example:8080")
    monkeypatch.setenv("ACTORCHAT_SOURCES", "lk,shop")
    settings = load_settings()
    assert settings.origins == ("https://a.example", "http://b.example:8080")
    assert settings.sources == ("lk", "shop")


def test_the_table_http_comes_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_HTTP_KEEP_ALIVE", "120")
    monkeypatch.setenv("ACTORCHAT_HTTP_CORS_HEADERS", "Traceparent, x-request-id")
    monkeypatch.setenv("ACTORCHAT_HTTP_TRUSTED_PROXIES", "127.0.0.1, 10.1.2.3/8")
    assert load_settings().http == HttpSettings(
        keep_alive=120,
        cors_headers=("traceparent", "x-request-id"),
        trusted_proxies=("127.0.0.1/32", "10.0.0.0/8"),
    )


def test_sources_are_tables_or_a_list(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[sources.lk]\n[sources.shop]\n")
    assert load_settings(config).sources == load_settings(options={"sources": ["lk", "shop"]}).sources


LINKS = {
    "ACTORCHAT_PORT": "tcp://10.0.0.1:8000",
    "ACTORCHAT_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "ACTORCHAT_PORT_8000_TCP_ADDR": "10.0.0.1",
    "ACTORCHAT_PORT_8000_TCP_PORT": "8000",
    "ACTORCHAT_PORT_8000_TCP_PROTO": "tcp",
    "ACTORCHAT_SERVICE_HOST": "10.0.0.1",
    "ACTORCHAT_SERVICE_PORT": "8000",
    "ACTORCHAT_SERVICE_PORT_HTTP": "8000",
}


def test_variables_set_by_platforms_are_ignored_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == Settings()
    assert load_settings(options={"port": 9000}).port == 9000
    (line,) = [line for line in unknown_variables() if "SIMULATION" not in line]
    assert line.startswith("ACTORCHAT_PORT=tcp://10.0.0.1:8000 and 7 more are ignored: set by Kubernetes or Docker")


@pytest.mark.parametrize("service", ["DATA", "HOST", "TLS", "LIMITS", "PROXY_CACHE"])
def test_variables_of_other_services_whose_names_begin_with_ours_are_ignored(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name.replace("ACTORCHAT", f"ACTORCHAT_{service}"), value)
    assert load_settings() == Settings()
    assert len([line for line in unknown_variables() if "SIMULATION" not in line]) == 1


def test_a_numeric_port_variable_is_used_beside_those_of_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (LINKS | {"ACTORCHAT_PORT": "9001"}).items():
        monkeypatch.setenv(name, value)
    assert load_settings().port == 9001


def test_a_settings_file_with_a_secret_must_be_private(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'secret = "{SECRET}"\n')
    config.chmod(0o644)
    with pytest.raises(InvalidSettings, match=r"secret: every user can read .*c\.toml: run chmod o-rwx"):
        load_settings(config)
    config.chmod(0o640)
    assert load_settings(config).secret == SECRET


@pytest.mark.parametrize(("content", "told"), [("port = = 1", "is not TOML"), (None, "can't be read")])
def test_an_unreadable_config_file_is_one_fault(tmp_path: Path, content: str | None, told: str) -> None:
    config = tmp_path / "c.toml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(InvalidSettings, match=told):
        load_settings(config)


def test_memory_storage_needs_no_folder_unless_one_is_named(tmp_path: Path) -> None:
    assert Settings(storage="memory://").folder is None
    assert Settings(storage="memory://", data=tmp_path).folder == tmp_path
    assert Settings(data=tmp_path).storage_url == f"sqlite:///{tmp_path}/actorchat.db"


def test_auto_chooses_the_reactor_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    secure = Settings(tls_cert=Path("c.pem"), tls_key=Path("k.pem"))
    assert (Settings().websocket_transport, secure.websocket_transport) == ("reactor", "trio-websocket")
    assert Settings(transport="trio-websocket").websocket_transport == "trio-websocket"
    monkeypatch.setattr("actorchat.server.settings._HAS_REACTOR", False)
    assert Settings().websocket_transport == "trio-websocket"
    with pytest.raises(InvalidSettings, match="transport: the reactor does not work on this system"):
        Settings(transport="reactor")


def test_rules_of_sources_come_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[attachments.sources.shop]\ntypes = ["image"]\nper_message = 1\n')
    rules = load_settings(file).file_rules
    assert (rules.of("shop").types, rules.of("shop").per_message) == (frozenset({"image"}), 1)
    assert rules.of("shop").size == rules.of("mall").size == 20_971_520
    monkeypatch.setenv("ACTORCHAT_ATTACHMENTS_SOURCES", '{"mall": {"size": 5}}')
    assert load_settings().file_rules.of("mall").size == 5


@pytest.mark.parametrize("days", [-1, "soon", True, 40_000, {"shop": 1}])
def test_days_of_retention_are_numbers(days: object) -> None:
    with pytest.raises(
        InvalidSettings, match=r"chat\.retention_days: expected a number of days, 0 \(for ever\) or more"
    ):
        Settings(secret=SECRET, chat=ChatSettings(retention_days=days))  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings, match=r"chat\.source_retention_days: expected a table of sources"):
        Settings(secret=SECRET, chat=ChatSettings(source_retention_days={"shop": days}))  # type: ignore[dict-item]


def test_each_source_has_its_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "actorchat.toml").write_text("[chat]\nretention_days = 365\n[chat.source_retention_days]\nshop = 0.5\n")
    retention = load_settings(tmp_path / "actorchat.toml", {"secret": SECRET}).policy.retention
    assert [retention.of(source) for source in ("shop", "lk")] == [43_200, 365 * 86_400]
    assert retention
    monkeypatch.setenv("ACTORCHAT_CHAT_SOURCE_RETENTION_DAYS", "shop=90, law=0")
    retention = load_settings(tmp_path / "actorchat.toml", {"secret": SECRET}).policy.retention
    assert [retention.of(source) for source in ("shop", "law")] == [90 * 86_400, 0]
    assert not Settings(secret=SECRET).policy.retention
    with pytest.raises(InvalidSettings, match=r"chat\.source_retention_days: law is not among sources"):
        load_settings(tmp_path / "actorchat.toml", {"secret": SECRET, "sources": ["shop"]})
