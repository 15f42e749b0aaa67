"""The limits of the front end, with their defaults: what a client can take of it."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses

from lovely.remotetask.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client can take.  Raises `ConfigurationError` for values that are not positive."""

    #: Requests that are worked on at a time; the next one waits for `permitTime`, and is told 503 then.
    connections: int = 200
    #: Callers of waitFor at a time, who take no thread; the next one is told 503.
    waiting: int = 5000
    #: Other connections at a time: idle ones, and those whose request has not come completely.  When there is one
    #: more, the one that has been so for the longest time is ended.
    silent: int = 2000
    #: The same with TLS, where each of them takes some 280 KiB of memory.
    silentTLS: int = 500
    #: Requests that are answered over one connection.
    requests: int = 10_000
    #: Bytes of a request's head; more are refused with 431.
    headSize: int = 64 * 1024
    #: Headers of a request; more are refused with 431.
    headers: int = 100
    #: Bytes of a request's body, also after decompression; a larger one is refused with 413.
    bodySize: int = 8 * 1024 * 1024
    #: Bodies above 256 KiB that are worked on at a time; the others wait.  The size of as many largest bodies is also
    #: the limit for all requests together that have not come completely, and responses that are not taken yet.  Above
    #: it the oldest of those that hold more than the average is ended.
    largeBodies: int = 8
    #: Seconds from the first byte of a request to its last, however it drips.
    requestTime: float = 20.0
    #: Seconds that a connection may be silent between two requests.  Longer than proxies keep them (60 seconds): if it
    #: were the front end that ends one, a proxy could just be using it.
    idleTime: float = 75.0
    #: Seconds that a client may take to accept an answer.
    answerTime: float = 60.0
    #: Seconds that a request waits when as many are worked on as may be; then it is refused with 503.
    permitTime: float = 1.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ConfigurationError(f'the limit {name} of the frontend must be positive, not {value}')
