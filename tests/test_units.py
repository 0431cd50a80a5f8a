"""The units of systemd: that systemd understands them, and how much they leave open."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from mailgw.config.model import Listener

ETC = Path(__file__).parent.parent / "etc"
SERVICE = (ETC / "mailgw.service").read_text()
SOCKETS = sorted(ETC.glob("*.socket"))
MOST_EXPOSED = 2.0


def systemd_analyze(*words):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60)


def values(text, key):
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def test_systemd_understands_every_line(tmp_path):
    for path in SOCKETS:
        shutil.copy(path, tmp_path)
    # It looks for the programs too, and they are not installed here.
    service = SERVICE
    for key in ("ExecStart", "ExecReload"):
        [command] = values(SERVICE, key)
        service = service.replace(f"{key}={command.split()[0]} ", f"{key}=/bin/true ")
    (tmp_path / "mailgw.service").write_text(service)
    verified = systemd_analyze("verify", *map(str, sorted(tmp_path.iterdir())))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_fault_in_a_unit_would_be_seen(tmp_path):
    (tmp_path / "mailgw.service").write_text("[Service]\nExecStart=/bin/true\nProtectSistem=strict\n")
    assert "ProtectSistem" in systemd_analyze("verify", str(tmp_path / "mailgw.service")).stderr


def test_little_is_left_open():
    told = systemd_analyze("security", "--offline=true", "--no-pager", str(ETC / "mailgw.service")).stdout
    match = re.search(r"Overall exposure level for mailgw\.service: ([0-9.]+)", told)
    assert match, told
    assert float(match[1]) <= MOST_EXPOSED


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("Type", "notify"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("User", "mailgw"),
        ("LoadCredential", "tls-key:/etc/mailgw/tls/key.pem"),
        # With call-backs made at run time, pyOpenSSL could make no TLS context.
        ("MemoryDenyWriteExecute", "no"),
    ],
)
def test_what_the_gateway_relies_on(key, expected):
    assert values(SERVICE, key) == [expected]


def test_the_folders_are_those_of_the_configuration():
    configuration = tomllib.loads((ETC / "mailgw.toml").read_text())
    assert configuration["server"]["state"] == f"/var/lib/{values(SERVICE, 'StateDirectory')[0]}"
    assert Path(configuration["admin"]["socket"]).parent == Path("/run") / values(SERVICE, "RuntimeDirectory")[0]
    assert configuration["tls"]["default"]["key"] == {"credential": values(SERVICE, "LoadCredential")[0].partition(":")[0]}


@pytest.mark.parametrize("path", SOCKETS, ids=[path.stem for path in SOCKETS])
def test_each_socket_fits_a_listener(path):
    text = path.read_text()
    [port], [name] = values(text, "ListenStream"), values(text, "FileDescriptorName")
    said = re.search(r'\[listen\.(\S+)\] endpoint = "(\S+)"', text)
    listener = tomllib.loads((ETC / "mailgw.toml").read_text())["listen"][said[1]]
    plain, socket = listener["endpoint"], said[2]
    assert plain in (f"tcp:{port}", f"tls:{port}")
    assert plain.startswith("tls:") == socket.startswith("tls:")
    assert socket.endswith(f"systemd:domain=INET6:name={name}")
    assert name == said[1]
    assert values(text, "Service") == ["mailgw.service"]


@pytest.mark.parametrize(
    ("endpoint", "beneath", "is_tls"),
    [
        ("tcp:25", "tcp:25", False),
        ("systemd:domain=INET6:name=mx", "systemd:domain=INET6:name=mx", False),
        ("tls:465", "tcp:465", True),
        ("tls:465:interface=127.0.0.1", "tcp:465:interface=127.0.0.1", True),
        ("tls:port=465", "tcp:port=465", True),
        ("tls:systemd:domain=INET6:name=submissions", "systemd:domain=INET6:name=submissions", True),
        ("tls:tcp6:465", "tcp6:465", True),
        ("tls:unix:/run/x", "unix:/run/x", True),
    ],
)
def test_what_tls_is_spoken_on(endpoint, beneath, is_tls):
    listener = Listener(name="x", kind="relay", endpoint=(endpoint,))
    assert (listener.beneath_tls(endpoint), listener.is_implicit_tls(endpoint)) == (beneath, is_tls)
