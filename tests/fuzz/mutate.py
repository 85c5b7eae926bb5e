"""Frames for the fuzzers: valid ones in every shape, then varied by meaning or damaged by bytes.

`vary` rewrites a frame as an exchange might one day: other key order, unknown and nested keys,
whitespace, escapes, other spellings of numbers, nulls, missing and repeated keys. `damage` cuts,
flips, deletes, inserts and repeats bytes.
"""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from benchmarks import frames as generated
from tests.fuzz.twin import NUMBER, Text

CONTROL = {
    "upbit": [
        b'{"status":"UP"}',
        '{"error":{"message":"형식","name":"WRONG_FORMAT"}}'.encode(),
        b'{"method":"LIST_SUBSCRIPTIONS","result":[{"type":"ticker"}],"ticket":"t"}',
        b'{"type":"candle.1s","code":"KRW-BTC","trade_price":1}',
        b'[{"ty":"trade"},{"ty":"ticker","cd":"KRW-BTC","tp":1,"op":2}]',
    ],
    "bithumb": [
        b'{"status":"UP"}',
        b'{"error":{"name":"NO_CODES","message":"x"}}',
        b'{"status":"0000","resmsg":"Connected Successfully"}',
        b'{"type":"transaction","content":{"list":[{"contPrice":"3.9"}]}}',
    ],
    "coinone": [
        b'{"response_type":"CONNECTED","data":{"session_id":"6f3e1d0f"}}',
        b'{"response_type":"SUBSCRIBED","channel":"ORDERBOOK","data":{"target_currency":"eth"}}',
        b'{"response_type":"PONG"}',
        b'{"r":"ERROR","error_code":160012,"message":"Invalid Topic"}',
        b'{"r":"DATA","c":"CHART","d":{"qc":"KRW","tc":"BTC"}}',
        b'{"r":"DATA","c":"TRADE","d":{"qc":"krw","tc":"xrp","i":"1693560563084003","p":"688.3",'
        b'"q":"290.745","sm":false}}',
        b'{"r":"NEWS","d":{}}',
    ],
    "binance": [
        b'{"result":null,"id":1}',
        b'{"result":["btcusdt@trade"],"id":3}',
        b'{"code":2,"msg":"Invalid request"}',
        b'{"error":{"code":2,"msg":"Invalid request"},"id":20}',
        b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}',
        b'{"u":400900217,"s":"BNBUSDT","b":"25.3519","B":"31.21","a":"25.3652","A":"40.66"}',
        b'{"stream":"!miniTicker@arr","data":[{"e":"24hrMiniTicker","E":1672515782136,"s":"BNBBTC",'
        b'"c":"0.0025","o":"0.0010","h":"0.0025","l":"0.0010","v":"10000","q":"18"},'
        b'{"e":"24hrMiniTicker","E":1672515782136,"s":"A","c":"1"}]}',
        b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}',
        b'{"e":"kline","E":1,"s":"BTCUSDT","k":{"t":1,"a":[[1,[2]]]}}',
    ],
}
BINARY = "binance-sbe"
MANTISSAS = (
    0, 1, -1, 10**15, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), -(2**53),
    123456789012345678,
)  # fmt: skip
ODD_BYTES = (b'"', b"\\", b"{", b"]", b",", b"\xff", b"\xed\xa0\x80", b"\0", b"e", b"0")
SPACES = ("", "", "", " ", "\n", "\t\r", "  ")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", [], {}, [[]], {"a": [1, {"b": None}]}, Text("0"), Text("-1"),
    Text("-0.0"), Text("1e5"), Text("0E-8"), Text("1e400"), Text("9007199254740993"),
    Text("9223372036854775807"), Text("9223372036854775808"), Text("1.0"),
    Text("1790134742106.0"), Text("1.790134742106E12"), Text("728107452.06423197609921044"),
    Text("5e-324"), Text("123456789012345678901234567890"),
)  # fmt: skip


def base(exchange: str, rng: Random) -> bytes:
    """Return one valid frame of an exchange."""
    if exchange in CONTROL and rng.random() < 0.25:
        return rng.choice(CONTROL[exchange])
    return generated.made(rng.choice(generated.kinds_of(exchange)), rng)


def shortened(rng: Random, value: Any) -> Any:
    """Return a tree with fewer levels, so that one mutation has more effect."""
    if isinstance(value, Pairs):
        return Pairs((key, shortened(rng, one)) for key, one in value)
    if isinstance(value, list):
        keep = value if len(value) < 4 else value[: rng.randint(0, 4)]
        return [shortened(rng, one) for one in keep]
    return value


class Pairs(list[tuple[str, Any]]):
    """An object whose keys keep their order and may repeat."""


def tree(frame: bytes) -> Any:
    return json.loads(
        frame.decode(), parse_int=Text, parse_float=Text, object_pairs_hook=lambda p: Pairs(p)
    )


def respell(rng: Random, number: str) -> str:
    """Write a number differently; mostly the same value."""
    way = rng.randrange(8)
    if way == 0:
        return repr(float(number))
    if way == 1:
        return f"{float(number):.{rng.randint(0, 25)}e}"
    if way == 2:
        return f"{float(number):.{rng.randint(0, 30)}f}"
    if way == 3:
        return number + "E0" if "e" not in number.lower() else number
    if way == 4 and "e" not in number.lower():
        return number + ("0" * rng.randint(1, 20) if "." in number else ".0")
    if way == 5:
        return repr(rng.lognormvariate(0, 40))
    if way == 6:
        return "-" + number.lstrip("-")
    return number


def written(rng: Random, value: Any, plain: bool) -> str:
    """Write a tree as JSON; not plain: with spaces and escapes anywhere."""
    gap = "" if plain else rng.choice(SPACES)
    if isinstance(value, Pairs):
        parts = [
            f"{gap}{string(rng, key, plain)}{gap}:{gap}{written(rng, one, plain)}{gap}"
            for key, one in value
        ]
        return "{" + (",".join(parts) or gap) + "}"
    if isinstance(value, dict):
        return written(rng, Pairs(value.items()), plain)
    if isinstance(value, list):
        parts = [f"{gap}{written(rng, one, plain)}{gap}" for one in value]
        return "[" + (",".join(parts) or gap) + "]"
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, str):
        return string(rng, value, plain)
    return json.dumps(value)


def string(rng: Random, value: str, plain: bool) -> str:
    if plain or rng.random() < 0.9:
        return json.dumps(value, ensure_ascii=rng.random() < 0.5)
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in value) + '"'


def objects(value: Any) -> list[Pairs]:
    """Return all objects of a tree."""
    found = [value] if isinstance(value, Pairs) else []
    inner = [one for _, one in value] if isinstance(value, Pairs) else value
    if isinstance(inner, list):
        for one in inner:
            found += objects(one)
    return found


def change(rng: Random, value: Any) -> Any:
    """Return a tree with some numbers respelled and odd values inserted, level by level."""
    if isinstance(value, Pairs):
        return Pairs((key, change(rng, one)) for key, one in value)
    if isinstance(value, list):
        return [change(rng, one) for one in value]
    if rng.random() < 0.02:
        return rng.choice(ODD_VALUES)
    if isinstance(value, str) and NUMBER.fullmatch(value) and rng.random() < 0.3:
        kind = Text if isinstance(value, Text) != (rng.random() < 0.05) else str
        return kind(respell(rng, value))
    return value


def vary(rng: Random, frame: bytes) -> bytes:
    """Rewrite a valid frame; the result is JSON nearly always."""
    value = shortened(rng, tree(frame))
    for one in objects(value):
        if rng.random() < 0.4:
            rng.shuffle(one)
        if rng.random() < 0.15:
            key = rng.choice(("x", "새", "level", "data", "stream", "b", "a" * 40))
            one.insert(rng.randint(0, len(one)), (key, rng.choice(ODD_VALUES)))
        if one and rng.random() < 0.06:
            del one[rng.randrange(len(one))]
        if one and rng.random() < 0.06:
            key, again = rng.choice(one)
            one.insert(rng.randint(0, len(one)), (key, rng.choice((again, rng.choice(ODD_VALUES)))))
    if rng.random() < 0.5:
        value = change(rng, value)
    if rng.random() < 0.1:
        value = [value] * rng.randint(0, 3)
    return written(rng, value, plain=rng.random() < 0.5).encode()


def vary_binary(rng: Random, frame: bytes) -> bytes:
    """Change fields of an SBE frame: header, lengths, counts, exponents, mantissas."""
    data = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 2))):
        way, at = rng.randrange(4), rng.randrange(len(data) - 8)
        if way == 0:
            # a field of the header, or the head of a group
            place = rng.choice((0, 2, 4, 6, 34, 26))
            value = rng.choice((0, 1, 16, 18, 25, 26, 50, 255, 10000, 10001, 10002, 10003, 65535))
            struct.pack_into("<H", data, min(place, len(data) - 2), value)
        elif way == 1:
            struct.pack_into("<q", data, at, rng.choice(MANTISSAS))
        elif way == 2:
            data[rng.choice((24, 25, 32, 33))] = rng.choice((0, 22, 23, 127, 128, 234, 233, 255))
        else:
            data[-1 - rng.randrange(8)] = rng.choice((0, 255, 0xE5, 0x22))
    if rng.random() < 0.2:
        data += bytes(rng.randrange(256) for _ in range(rng.randrange(9)))
    if rng.random() < 0.2:
        data = longer(data, rng)
    return bytes(data)


def longer(data: bytearray, rng: Random) -> bytearray:
    """Return a frame of a later schema, whose root block has more fields."""
    block = int.from_bytes(data[:2], "little")
    more = rng.randrange(1, 9)
    data[8 + block : 8 + block] = rng.randbytes(more)
    struct.pack_into("<H", data, 0, (block + more) % 65536)
    return data


def damage(rng: Random, frame: bytes) -> bytes:
    """Change bytes without regard to what they mean."""
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(7)
        if way <= 1:
            del data[at:]
        elif way == 2 and data:
            data[at % len(data)] = rng.randrange(256)
        elif way == 3:
            del data[at : at + rng.choice((1, 1, 2, 9))]
        elif way == 4:
            data[at:at] = rng.choice(
                (b'"', b"\\", b"{", b"]", b",", b"\xff", b"\xed\xa0\x80", b"\0", b"e", b"0")
            )
        elif way == 5:
            data[at:at] = data[at : at + rng.randrange(40)]
        else:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(20)))
    return bytes(data)


def frame(exchange: str, rng: Random) -> bytes:
    """Return a frame of any kind: valid, varied, damaged, or varied and damaged."""
    made = base(exchange, rng)
    way = rng.random()
    if way < 0.6:
        made = vary_binary(rng, made) if exchange == BINARY else vary(rng, made)
    if way > 0.5:
        made = damage(rng, made)
    return made
