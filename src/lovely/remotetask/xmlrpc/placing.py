"""Puts files that were sent before into the inputs of jobs, each in the place of its id."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.files import exchanged
from lovely.remotetask.storage import uploads
from lovely.remotetask.xmlrpc.faults import BadArguments


class Placing:
    """The jobs that one call adds, and the uploads that they take."""

    def __init__(self, service, user):
        """`user` is the name of the user who calls, None where there are no users."""
        self._service, self._user = service, user
        self._files = {}            # id -> `StoredFile`; None for one that was taken by a call before

    def filled(self, job):
        """Return the arguments for a job, with files in the input instead of their ids, and without `uploads`.

        job -- a dict with task, input, and maybe key and uploads: the ids, each of which stands somewhere in the input.

        Where there is a job with that key, its input is returned: it took the uploads when it was added.  Raise
        `errors.UnknownUpload`, `storedfiles.WrongPart` for one that is not complete, `BadArguments` for another list.
        """
        ids = job.pop('uploads', None)
        if ids is None:
            return job
        if type(ids) is not list or not all(type(id) is str for id in ids):
            raise BadArguments('uploads: an array of strings is needed')
        if not ids:
            return job
        known = self._jobWith(job['task'], job.get('key'))
        if known is not None:
            self._files.update((id, None) for id in ids if id not in self._files)
            return {**job, 'input': known.input}
        return {**job, 'input': self._exchanged(job['input'], set(ids))}

    def _jobWith(self, task, key):
        jobid = self._service.keys.get(task, key) if isinstance(key, str) else None
        return None if jobid is None else self._service.jobs.get(jobid)

    def _exchanged(self, input, ids):
        for id in ids:
            if self._files.get(id) is None:
                self._files[id] = uploads.fileOf(uploads.find(self._service, self._user, id))
        placed = set()

        def place(text):
            if text not in ids:
                return text
            placed.add(text)
            return self._files[text]

        input = exchanged(input, str, place)
        if placed != ids:
            raise BadArguments(f'uploads: {min(ids - placed)[:40]!r} does not stand in the input')
        return input

    def end(self):
        """Drop the uploads that were taken: their files belong to the jobs now."""
        for id in self._files:
            uploads.drop(self._service, self._user, id)
