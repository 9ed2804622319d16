"""Which limiter is whose: one for each endpoint, credential, model and what the user says about limits.

Keeps no key: a credential is known by its hash. A forked process begins anew.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress

from lc_service.limits.limiter import RateLimiter
from lc_service.limits.rate_limits import RateLimits

_MAX_LIMITERS = 4_096
_limiters: OrderedDict[Hashable, RateLimiter] = OrderedDict()
"""The one that was used last is last."""


def limiter_for(limits: RateLimits, *, endpoint: str, credential: Hashable, model: str) -> RateLimiter:
    """Return the limiter that all with the same arguments share in this process. Thread-safe.

    Args:
        limits: What the user says.
        endpoint: The API's base URL.
        credential: The API key and what else the server tells clients apart by.
        model: The name that is asked for.
    """
    key = (limits, endpoint, hash(credential), model)
    limiter = _limiters.get(key)
    if limiter is None:
        made = _made(limits, endpoint, credential, model)
        limiter = _limiters.setdefault(key, made)  # of threads that meet here one wins
        while len(_limiters) > _MAX_LIMITERS:
            with suppress(KeyError):  # another thread was faster
                _limiters.popitem(last=False)
    else:
        with suppress(KeyError):
            _limiters.move_to_end(key)
    return limiter


def _made(limits: RateLimits, endpoint: str, credential: Hashable, model: str) -> RateLimiter:
    if limits.redis_url is None:
        return RateLimiter(limits)
    from lc_service.limits.shared.courier import courier_for  # noqa: PLC0415  for those who have a Redis
    from lc_service.limits.shared.limiter import SharedRateLimiter, key_of  # noqa: PLC0415  as above

    key = key_of(limits, endpoint, credential, model)
    return SharedRateLimiter(limits, key, courier_for(limits.redis_url))


def forget() -> None:
    """Forget all limiters and what they learned, for tests and for measurements that start anew."""
    _limiters.clear()


if hasattr(os, "register_at_fork"):  # the parent's waiters do not exist here, nor may its locks be free
    os.register_at_fork(after_in_child=forget)
