"""The limiter of one process that shares its limits: the same line, whose first ask Redis.

Keeps no key and no prompt in Redis: a state is named by a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from lc_service import clock
from lc_service.limits.limiter import RateLimiter
from lc_service.limits.rate_limits import RateLimits
from lc_service.limits.shared.admission import SharedAdmission
from lc_service.limits.shared.call import Reply
from lc_service.limits.shared.courier import Courier
from lc_service.limits.shared.ticket import Ticket
from lc_service.limits.waiting import Waiting

_PREFIX = "lc_service:limits:"


class SharedRateLimiter(RateLimiter):
    """Keeps attempts within limits that several processes share.

    Args:
        limits: Caps on what is learned; the same in all processes that are to share.
        key: Names the state in Redis.
        courier: Carries what is asked.
    """

    def __init__(self, limits: RateLimits, key: str, courier: Courier) -> None:
        super().__init__(limits)
        self._shared = SharedAdmission(limits, key, courier, self._hear, clock.now())
        self.admission = self._shared
        if limits.max_concurrency is not None:
            courier.keep_renewing(self)

    def _hear(self, waiting: Waiting, ticket: Ticket, reply: Reply) -> None:
        self.post(self._shared.hear, waiting, ticket, reply)

    def renew(self) -> None:
        """Prolong the lease of the places that this process holds; never blocks."""
        self.post(self._shared.renew)


def key_of(limits: RateLimits, endpoint: str, credential: Hashable, model: str) -> str:
    """Return the name of a state: the same in all processes, and nothing can be read off it."""
    said = (limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrency)
    known = repr((said, endpoint, _names(credential), model))
    return _PREFIX + hashlib.blake2b(known.encode(), digest_size=16).hexdigest()


def _names(credential: Hashable) -> object:
    if isinstance(credential, tuple):
        return tuple(_names(one) for one in credential)
    if callable(credential):  # it fetches the key: where it lives is the same in every process
        return getattr(credential, "__module__", ""), getattr(credential, "__qualname__", "")
    return credential
