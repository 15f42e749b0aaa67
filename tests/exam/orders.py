"""The work of scenarios: orders that are drawn by chance."""
# SPDX-License-Identifier: ZPL-2.1
from exam.deployment import LEASE
from exam.load import Order
from lovely.remotetask.interfaces import CANCELLED


def short(rng):
    """Return an order of up to 50 ms that can't fail."""
    return Order(rng.choice(['effect', 'effect', 'plain']), {'seconds': rng.uniform(0, 0.05)})


def anything(rng):
    """Return an order of any kind: short and long, small and large, one that fails before it succeeds."""
    draw = rng.random()
    if draw < 0.05:
        return Order('fails', {'failures': rng.choice([1, 2])})
    if draw < 0.1:
        return Order('effect', {'seconds': 0.01, 'payload': 'x' * rng.randrange(20_000)})
    if draw < 0.2:
        return Order(rng.choice(['effect', 'plain']), {'seconds': rng.uniform(0.2, 0.6)})
    return short(rng)


def ending(rng):
    """Return an order whose task cancels its own job, or any other one."""
    if rng.random() < 0.5:
        return anything(rng)
    return Order('ends', {'seconds': rng.choice([0, 0, 0.01, 0.3]), 'commits': rng.random() < 0.5}, CANCELLED)


def steady(rng):
    """Return an order of any kind, as `ending` does, or at times one whose input and result are blobs."""
    if rng.random() < 0.02:
        return Order('effect', {'payload': 'x' * rng.randrange(100_000, 500_000)})
    return ending(rng) if rng.random() < 0.2 else anything(rng)


def tiring(rng):
    """Return an order that keeps hosts busy, of which few complete: one that fails often, is long, or conflicts."""
    draw = rng.random()
    if draw < 0.5:
        return Order('again', {'failures': rng.randrange(10, 50), 'seconds': rng.uniform(0.05, 0.5)})
    if draw < 0.8:
        return Order(rng.choice(['effect', 'plain']), {'seconds': rng.uniform(0.5, 4) * LEASE})
    return Order('conflict', {'seconds': rng.uniform(0, 0.3) * LEASE})


def committing(rng):
    """Return a short order, or at times one whose commit takes longer than the lease."""
    if rng.random() < 0.005:
        return Order('slow commit', {'vote': rng.uniform(0.5, 2) * LEASE, 'key': rng.choice('!~')})
    return anything(rng)
