"""Asking a database server for many objects at once, before they are needed one after the other.

With a server that is far away each object that is loaded alone costs a round trip.  Nothing here waits for the last
answer, and nothing depends on it: what does not come is loaded when it is needed.
"""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.storage.pages import PAGE_BITS
from lovely.remotetask.storage.ready import queues
from lovely.remotetask.storage.ready import shardOf


def preload(service):
    """Ask for the parts of a service that each processing host looks at when it starts, level by level."""
    schedule, shards = service.schedule, service.shards
    _ask(service, schedule, service.index, service.hosts, service.ledgers, service.stranded, service.suspects,
         service.uploads, *shards)
    _ask(service, schedule.inbox, schedule.entries, schedule.aside, schedule.seen, *service.hosts.parts,
         *queues(service), *(part for shard in shards for part in (shard.pages, shard.ledger)))
    _ask(service, *(end for queue in (schedule.inbox, *queues(service)) for end in queue.ends),
         *(shard.pages.directory for shard in shards))


def preloadPages(service):
    """Ask for the way to the jobs of a service, level by level."""
    _ask(service, *service.shards)
    _ask(service, *(shard.pages for shard in service.shards))
    _ask(service, *(shard.pages.directory for shard in service.shards))


def _ask(service, *records):
    """Ask for those of these stored objects that are not in memory."""
    if service._p_jar is not None and (absent := [record for record in records if record._p_changed is None]):
        service._p_jar.prefetch(absent)


def unchanged(service, jobids):
    """Return the oids of the records that lead to jobs, and that the current transaction has not changed, a list."""
    ways = {jobid >> PAGE_BITS: shardOf(service, jobid).pages for jobid in jobids}
    records = [record for number, pages in ways.items()
               for record in (pages.directory, pages.page(number << PAGE_BITS)) if record is not None]
    return list({record._p_oid: None for record in records if not record._p_changed and record._p_oid is not None})
