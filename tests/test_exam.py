"""The exam in short: each scenario for some seconds, with faults from a new seed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import random
import shutil
import unittest

from exam.main import main
from exam.running import run


#: Seconds of load and faults.
SECONDS = 5


class ExamTest(unittest.TestCase):

    level = 2

    def examine(self, name, storage='zeo'):
        seed = str(random.randrange(1_000_000))
        with self.subTest(seed=seed):
            verdict = run(name, seed, SECONDS, storage)
            if verdict.violations:
                self.fail(verdict.report)
            self.assertGreater(verdict.jobs, 0, verdict.report)

    def test_hosts_are_killed(self):
        self.examine('kill')

    def test_hosts_are_restarted_one_after_the_other(self):
        self.examine('rolling')

    def test_a_host_is_stopped_beyond_its_lease(self):
        self.examine('stopped')

    def test_the_database_server_is_killed(self):
        self.examine('zeo')

    def test_the_database_server_hangs(self):
        self.examine('hang')

    def test_postgresql_is_restarted_and_its_backends_are_killed(self):
        self.examine('postgres')

    def test_the_front_end_is_killed(self):
        self.examine('frontend')

    def test_anything_happens(self):
        self.examine('mixed')

    def test_anything_happens_on_postgresql(self):
        self.examine('mixed', 'postgresql')

    def test_jobs_are_cancelled_at_any_moment(self):
        self.examine('cancel')

    def test_the_scheduler_is_killed(self):
        self.examine('cron')

    def test_tasks_cancel_their_own_jobs(self):
        self.examine('own')

    def test_jobs_fail_again_and_again_beside_long_ones(self):
        self.examine('retries')

    def test_commits_take_longer_than_the_lease(self):
        self.examine('stalled')

    def test_schedules_of_any_kind(self):
        self.examine('schedules')

    @unittest.skipUnless(shutil.which('cc') or shutil.which('gcc'), 'there is no C compiler')
    def test_clocks_jump(self):
        self.examine('clocks')

    def test_jobs_end_their_host(self):
        self.examine('poison')


class TestBeside(unittest.TestCase):

    def test_a_directory_without_programs(self):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            main(['--scenario', 'upgrade', '--beside', '/nowhere'])
        self.assertIn('--beside: there is no bin/remotetask and bin/runzeo in /nowhere', said.getvalue())


if __name__ == '__main__':
    unittest.main()
