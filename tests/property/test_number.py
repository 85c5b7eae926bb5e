"""Numbers are read exactly: doubles equal to `float(text)` bit for bit, ids as int64."""

import struct
from decimal import Decimal
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coinspace._ext.number import parse_int, parse_start
from tests.fuzz.twin import NUMBER, Malformed, Text, integer


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def parse_float(text: bytes) -> float:
    value, size = parse_start(text)
    if size != len(text):
        raise ValueError("expected a finite JSON number and nothing behind it")
    return value


def agrees(text: str) -> None:
    expected = float(text) if NUMBER.fullmatch(text) else None
    if expected is None or abs(expected) == float("inf"):
        with pytest.raises(ValueError, match="expected a finite JSON number"):
            parse_float(text.encode())
    else:
        assert bits(parse_float(text.encode())) == bits(expected), text
        # the vector path needs bytes after the number
        for tail in (b'","0.5"],["1.5"', b",123456789012345", b"}" + b"\xff" * 32):
            value, size = parse_start(text.encode() + tail + b" " * 24)
            assert (bits(value), size) == (bits(expected), len(text)), (text, tail)


LONG_NUMBER = r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?"
INTEGER = r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?"


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
@example("9007199254740993")  # 2^53 + 1, half-way: ties to even
@example("9007199254740992.999999999999999999999999999")
@example("5e-324")
@example("2.4703282292062327e-324")  # just under half of the least subnormal
@example("2.4703282292062328e-324")
@example("2.2250738585072011e-308")
@example("1.7976931348623157e308")
@example("1.7976931348623159e308")
@example("1e400")
@example("1e-400")
@example("-0.0")
@example("0E-8")
@example("0." + "0" * 400 + "1e401")
@example("1" + "0" * 400 + "e-400")
@example("728107452.06423197609921044")
@example(
    "8.988465674311579538646525953945123668089884894711532863671504057886633790275048156635e307"
)
def test_doubles_equal_float(text: str) -> None:
    agrees(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_shortest_text_reads_back(value: float) -> None:
    agrees(repr(value))
    agrees(f"{value:.17e}")


@given(st.integers(0, 2**53), st.integers(-300, 290))
def test_halfway_cases(mantissa: int, exponent: int) -> None:
    # exactly between two doubles, and one digit beside it
    middle = Decimal(2 * mantissa + 1) * Decimal(2) ** Decimal(exponent % 60)
    for text in (f"{middle:f}", f"{middle:f}.0000000000000000001", f"{middle * 10 - 1:f}e-1"):
        agrees(text)


@given(st.text("0123456789.eE+-x ", max_size=24))
@example("")
@example("-")
@example("1.")
@example(".5")
@example("01")
@example("+1")
@example("1e")
@example("1e+")
@example("١")
@example("1_0")
def test_anything_else_is_refused(text: str) -> None:
    agrees(text)


def random_text(rng: Random) -> str:
    way = rng.randrange(8)
    if way == 0:
        return repr(struct.unpack("<d", rng.randbytes(8))[0])
    if way == 1:
        return str(rng.getrandbits(rng.randint(1, 85)))
    if way == 2:
        return f"{rng.randrange(10**9)}.{rng.randrange(10**8):0{rng.randint(1, 12)}d}"
    if way == 3:
        return f"{rng.randrange(10**17)}E{rng.randint(-30, 30)}"
    if way == 4:
        return f"{rng.lognormvariate(0, 10):.{rng.randint(0, 25)}f}"
    if way == 5:
        return f"{rng.getrandbits(64)}e{rng.randint(-345, 310)}"
    if way == 6:
        return f"0.{'0' * rng.randint(0, 20)}{rng.getrandbits(60)}"
    return f"{rng.randint(-9, 9)}.{rng.getrandbits(70)}e-{rng.randint(300, 330)}"


@pytest.mark.parametrize("seed", range(4))
def test_many_spellings(seed: int) -> None:
    rng = Random(seed)
    for _ in range(50_000):
        text = random_text(rng)
        if text[-1] not in "fn":
            try:
                found = parse_float(text.encode())
                assert parse_start(text.encode() + b"," * 24)[0] == found
            except ValueError:
                found = float("inf")
            expected = float(text) if NUMBER.fullmatch(text) else float("inf")
            assert bits(abs(found)) == bits(abs(expected)), text


@given(
    st.one_of(
        st.integers(-(2**66), 2**66).map(str),
        st.from_regex(
            r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
        ),
        st.text("0123456789.eE-", max_size=20),
    )
)
@example("1077860633149466017")
@example("9223372036854775807")
@example("9223372036854775808")
@example("-9223372036854775808")
@example("1790134742106.0")
@example("1.790134742106E12")
@example("0e-99")
@example("1e18")
@example("1e19")
@example("10000000000000000000000e-4")
def test_integers_are_exact(text: str) -> None:
    try:
        expected = integer(Text(text))
    except Malformed:
        with pytest.raises(ValueError, match="expected an integer"):
            parse_int(text.encode())
    else:
        assert parse_int(text.encode()) == expected
