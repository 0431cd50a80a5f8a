"""The demo's folder, and what the demo says of it."""

from pathlib import Path

from mailgw.demo import how_to, prepare


def test_the_ports_are_those_that_the_configuration_has_now(tmp_path):
    configuration = prepare(tmp_path)
    assert "curl smtp://127.0.0.1:2525/" in how_to(tmp_path, Path("mailgw"))
    text = configuration.read_text()
    text = text.replace('"tcp:2525:interface=127.0.0.1"', '["tcp:2626:interface=127.0.0.1"]').replace("tcp:2587", "tcp:2687")
    configuration.write_text(text)
    said = how_to(tmp_path, Path("mailgw"))
    assert "submission on 127.0.0.1:2687" in said
    assert "2525" not in said
    assert "2587" not in said
