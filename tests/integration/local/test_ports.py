"""Ports stay the same from run to run as long as nobody else has taken them."""

import socket
from pathlib import Path

from local import ports


def test_free_ports_are_remembered(tmp_path: Path) -> None:
    memory = tmp_path / "ports.json"
    first = ports.choose(memory)
    assert set(first) == set(ports.NAMES)
    assert len(set(first.values())) == len(ports.NAMES)
    assert ports.choose(memory) == first
    assert ports.remembered(memory) == first


def test_one_that_somebody_took_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    memory = tmp_path / "ports.json"
    first = ports.choose(memory)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", first["mqtt"]))
        stranger.listen()
        second = ports.choose(memory)
    assert second["mqtt"] != first["mqtt"]
    assert {**second, "mqtt": 0} == {**first, "mqtt": 0}


def test_one_that_our_own_process_listens_on_is_kept(tmp_path: Path) -> None:
    memory = tmp_path / "ports.json"
    first = ports.choose(memory)
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", first["engine"]))
        ours.listen()
        assert ports.choose(memory, ours=["engine"]) == first
