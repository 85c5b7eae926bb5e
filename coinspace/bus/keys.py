"""This host's pair of CURVE keys, in a file that only its owner may read."""

from __future__ import annotations

import orjson
import zmq

from coinspace.config import BusSettings, read_keys
from coinspace.errors import BusError, ConfigError
from coinspace.files import replace_file


def public_key(bus: BusSettings, *, new: bool = False) -> str:
    """Return this host's public key; the pair is made when there is none, or when asked for.

    Raises: ConfigError when the file cannot be read or written, BusError without CURVE.
    """
    pair = None if new else read_keys(bus.key_file)
    if pair is not None:
        return pair[0]
    try:
        public, secret = (key.decode() for key in zmq.curve_keypair())
        bus.key_file.parent.mkdir(parents=True, exist_ok=True)
        content = orjson.dumps({"public": public, "secret": secret})
        replace_file(bus.key_file, content, private=True)
    except zmq.ZMQError as error:
        raise BusError(f"CURVE: expected a libzmq with encryption, {error}") from None
    except OSError as error:
        raise ConfigError(f"{bus.key_file}: expected a place to write, {error}") from None
    return public
