"""Line ends."""

from hypothesis import given
from hypothesis import strategies as st

from mailgw.gateways.line_ends import as_unix


@given(st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\r\n"]), max_size=10), st.integers(1, 4))
def test_line_ends_over_any_split(parts: list[bytes], size: int) -> None:
    message = b"".join(parts)
    pieces = (message[i : i + size] for i in range(0, len(message), size))
    assert b"".join(as_unix(pieces)) == message.replace(b"\r\n", b"\n")
