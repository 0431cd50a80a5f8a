"""SASLprep: the examples of RFC 4013 §3, and the same as another implementation."""

from stringprep import in_table_a1

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramException
from scramp.utils import saslprep as scramp_saslprep

from mailgw.smtp.saslprep import NotPrepared, saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        pytest.param("I\u00adX", "IX", id="mapped to nothing"),
        pytest.param("user", "user", id="as it is"),
        pytest.param("USER", "USER", id="case is kept"),
        pytest.param("\u00aa", "a", id="NFKC"),
        pytest.param("\u2168", "IX", id="NFKC, two letters"),
        pytest.param("a\u00a0b", "a b", id="odd blank"),
        pytest.param("\u0627\u0031\u0628", "\u06271\u0628", id="right to left"),
        pytest.param("\U0001f600", "\U0001f600", id="younger than the tables"),
        pytest.param("", "", id="empty"),
    ],
)
def test_prepared(text, prepared):
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "a\nb", "\u0627\u0031", "a\u0627b", "\ue000", "\ufdd0", "\ufffd", "a\0"])
def test_not_prepared(text):
    with pytest.raises(NotPrepared) as caught:
        saslprep(text)
    assert text not in str(caught.value)


@given(st.text().filter(lambda text: not any(map(in_table_a1, text))))
def test_scramp_says_the_same(text):
    try:
        expected = scramp_saslprep(text)
    except ScramException:
        expected = None
    try:
        assert saslprep(text) == expected
    except NotPrepared:
        assert expected is None
