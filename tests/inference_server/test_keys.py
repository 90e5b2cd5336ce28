"""Nobody gets in: keys, the list of clients, addresses that need them, and pages for this machine only."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from grove.commands.keys import Keys, keys
from grove.common.errors import HandshakeError, ServerGone, SettingError
from grove.inference_server import InferenceServer, Patience, ZmqClient, private_endpoint
from grove.inference_server.channels.endpoint import is_own_host
from grove.inference_server.channels.keys import ClientKeys, ServerKeys
from grove.inference_server.channels.zmq_client import ask_server
from grove.inference_server.metrics import Exporter
from tests.support.arithmetic_network import SPEC, ArithmeticBackend, compute, random_rows
from tests.support.command import Grove

QUICK = Patience(give_up_after_s=2, ping_interval_s=0.2)
ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert keys(Keys(folder=str(tmp_path / "keys"), clients="ann,bob")) == 0
    assert f"--keys {tmp_path / 'keys' / 'clients' / 'ann'}" in capsys.readouterr().out
    return tmp_path / "keys"


@pytest.fixture
def server() -> Iterator[InferenceServer]:
    with InferenceServer(SPEC, [ArithmeticBackend(SPEC)]) as server:
        yield server


def client_of(endpoint: str, folder: Path | None) -> ZmqClient:
    theirs = None if folder is None else ClientKeys.read(str(folder))
    return ZmqClient(endpoint, SPEC, patience=QUICK, keys=theirs)


def counted(server: InferenceServer, cause: str) -> int:
    """Wait until a cause is counted and return how often."""
    deadline = time.monotonic() + 60
    while not (count := server.stats()["errors"].get(cause, 0)):
        assert time.monotonic() < deadline, server.stats()["errors"]
        time.sleep(0.01)
    return int(count)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_keys_let_in_and_rows_are_served(transport: str, folder: Path, server: InferenceServer) -> None:
    with ExitStack() as stack:
        wished = stack.enter_context(private_endpoint()) if transport == "ipc" else ANY
        endpoint = server.bind(wished, ServerKeys(str(folder)))
        mine = ClientKeys.read(str(folder / "clients" / "ann"))
        assert ask_server(endpoint, mine).rows == SPEC
        client = stack.enter_context(closing(client_of(endpoint, folder / "clients" / "bob")))
        rows = random_rows(SPEC, 9, 0)
        client.submit(rows)
        reply = client.collect(60)
        assert reply is not None
        assert np.array_equal(reply.logits, compute(SPEC, rows)[0])
    assert server.stats()["errors"] == {}


def test_an_unknown_key_is_refused_and_counted(folder: Path, tmp_path: Path, server: InferenceServer) -> None:
    endpoint = server.bind(ANY, ServerKeys(str(folder)))
    keys(Keys(folder=str(tmp_path / "other"), clients="eve"))
    eve = tmp_path / "other" / "clients" / "eve"
    (eve / "server.key").write_bytes((folder / "server.key").read_bytes())  # she knows whom to call
    with pytest.raises(HandshakeError, match="does not let this key in"):
        client_of(endpoint, eve)
    with pytest.raises(HandshakeError, match="does not let this key in"):
        ask_server(endpoint, ClientKeys.read(str(eve)))
    assert counted(server, "refused_key") == 2
    assert server.stats()["clients"] == 0


def test_without_keys_or_with_those_of_another_server_nothing_is_said(
    folder: Path, tmp_path: Path, server: InferenceServer
) -> None:
    endpoint = server.bind(ANY, ServerKeys(str(folder)))
    keys(Keys(folder=str(tmp_path / "other")))
    for stranger in (None, tmp_path / "other" / "clients" / "worker"):
        with pytest.raises(ServerGone, match="do its keys and ours"):
            client_of(endpoint, stranger)
    with pytest.raises(ServerGone, match="do its keys and ours"):
        ask_server(endpoint, None, 0.3)
    plain = server.bind(ANY)  # and a client with keys believes no server without them
    with pytest.raises(ServerGone, match="do its keys and ours"):
        client_of(plain, folder / "clients" / "ann")


def test_who_is_shut_out_and_let_in_again_needs_no_restart(folder: Path, server: InferenceServer) -> None:
    endpoint = server.bind(ANY, ServerKeys(str(folder)))
    allowed = folder / "allowed" / "ann.key"
    public = allowed.read_bytes()
    allowed.unlink()
    with pytest.raises(HandshakeError):
        client_of(endpoint, folder / "clients" / "ann")
    client_of(endpoint, folder / "clients" / "bob").close()
    allowed.write_bytes(public)
    client_of(endpoint, folder / "clients" / "ann").close()


def test_secrets_are_for_their_owner_and_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = sorted(folder.rglob("*.key_secret"))
    assert [path.relative_to(folder).as_posix() for path in secrets] == [
        "clients/ann/client.key_secret",
        "clients/bob/client.key_secret",
        "server.key_secret",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.glob("clients/*"))} == {0o700}
    before = {path: path.read_bytes() for path in folder.rglob("*.key*")}
    (folder / "allowed" / "bob.key").unlink()
    keys(Keys(folder=str(folder), clients="ann,bob,cy"))
    assert "bob has keys and was shut out" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*.key*") if "cy" not in str(path)} == {
        path: content for path, content in before.items() if path.name != "bob.key"
    }
    assert not list(folder.glob(".new-*"))


@pytest.mark.skipif(os.name != "posix", reason="the modes of files mean something on POSIX systems only")
def test_secrets_that_others_may_read_are_refused(folder: Path) -> None:
    for secret, read in (
        (folder / "server.key_secret", lambda: ServerKeys(str(folder))),
        (folder / "clients" / "ann" / "client.key_secret", lambda: ClientKeys.read(str(folder / "clients" / "ann"))),
    ):
        read()
        secret.chmod(0o640)
        with pytest.raises(SettingError, match="others may read it"):
            read()


def test_damaged_folders_are_said(folder: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", folder):  # nothing there; the server's folder
        with pytest.raises(SettingError, match=r"client\.key_secret; give the folder of one client"):
            ClientKeys.read(str(wrong))
    with pytest.raises(SettingError, match=r"no server\.key_secret"):
        ServerKeys(str(tmp_path))
    (folder / "allowed" / "eve.key").write_text('public-key = "short"')
    with pytest.raises(SettingError, match="is no key file"):
        ServerKeys(str(folder))
    for file in (folder / "allowed").iterdir():
        file.unlink()
    with pytest.raises(SettingError, match="lets nobody in"):
        ServerKeys(str(folder))
    with pytest.raises(SettingError, match="a name has"):
        Keys(folder="x", clients="../up")


def test_serve_and_work_with_keys(grove: Grove) -> None:
    folder, out = grove.folder / "keys", grove.folder / "run"
    grove.play("keys", folder, "--clients", "ann")
    network = ("--network", "mlp:layers=1,width=16", "--device", "cpu", "--dtype", "fp32", "--compile", "off")
    serve = ("serve", "--game", "hex:size=4", "--bind", "tcp://0.0.0.0:*", *network)
    assert "served only with keys" in grove.refused(*serve)
    server = grove.start(*serve, "--keys", folder)
    assert server.stdout is not None
    while "workers: grove work" not in (line := server.stdout.readline()):
        assert line, server.communicate()
    assert line.split()[-2:] == ["--keys", f"{folder}/clients/NAME"]
    endpoint = line.split()[4].replace("0.0.0.0", "127.0.0.1")
    work = ("work", "--connect", endpoint, "--workers", 1, "--games-per-worker", 4, "--simulations", 8, "--games", 4)
    grove.play(*work, "--keys", folder / "clients" / "ann", "--out", out)
    grove.exactly(out, range(4), "hex:size=4")
    grove.play("keys", grove.folder / "other")
    (grove.folder / "other" / "clients" / "worker" / "server.key").write_bytes((folder / "server.key").read_bytes())
    line = grove.refused(*work, "--keys", grove.folder / "other" / "clients" / "worker", "--out", grove.folder / "no")
    assert "does not let this key in" in line
    os.killpg(server.pid, signal.SIGINT)
    assert grove.end(server).returncode == 0


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:9108", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:9108", True),
        ("", False),
        ("evil.example:9108", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("127.0.0.1:9108, evil.example", False),
    ],
)
def test_host_headers(host: str, own: bool) -> None:
    assert is_own_host(host) == own


def test_metrics_are_for_pages_of_this_machine_only(server: InferenceServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with closing(Exporter(server.stats, port)):
        url = f"http://127.0.0.1:{port}/metrics"
        assert b"grove_requests_total" in urllib.request.urlopen(url).read()
        lured = urllib.request.Request(url, headers={"Host": f"evil.example:{port}"})
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(lured)
        assert b"grove_" not in refused.value.read()
