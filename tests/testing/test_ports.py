"""Ports for servers of tests."""

import socket

import pytest

from mailgw.testing import ports
from mailgw.testing.ports import free_port


def test_they_differ_nobody_listens_there_and_the_kernel_gives_them_to_nobody():
    found = [free_port() for _ in range(200)]
    assert len(set(found)) == 200
    assert not set(found) & set(ports._chosen_by_the_kernel())
    for port in found[:5]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("chosen", [range(1024, 65536), range(ports._FIRST + 1, 65536)], ids=["all", "all but one"])
def test_where_the_kernel_has_all_of_them_they_differ_too(monkeypatch, chosen):
    monkeypatch.setattr(ports, "_chosen_by_the_kernel", lambda: chosen)
    assert len({free_port() for _ in range(50)}) == 50


def test_where_somebody_listens_is_not_free(monkeypatch):
    there, free = free_port(), free_port()
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setattr(ports, "_chosen_by_the_kernel", lambda: {port for port in range(65536) if port not in (there, free)})
    with socket.create_server(("127.0.0.1", there)):
        assert free_port() == free
