"""The exam in short: each scenario for some seconds, with faults from a new seed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import random
import shutil
import subprocess
import sys
import unittest

from exam.growth import Growth
from exam.growth import taken
from exam.main import main
from exam.running import run


#: Seconds of load and faults.
SECONDS = 5

#: A program that takes 50 MiB, nine files and four threads when it is told to, and ends when its input ends.
TAKING = """\
import os, sys, threading
print(flush=True)
sys.stdin.readline()
held = b'x' * (50 << 20), [open(os.devnull) for _ in range(9)]
for _ in range(4):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print(flush=True)
sys.stdin.readline()
"""


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

    def test_nothing_happens_but_work(self):
        self.examine('soak')

    def test_nothing_happens_but_work_on_postgresql(self):
        self.examine('soak', 'postgresql')


class TestGrowth(unittest.TestCase):

    def seen(self, quantity, *values):
        growth = Growth()
        for value in values:
            growth.note('host', {quantity: value})
        return growth

    def test_it_compares_the_end_with_what_followed_the_warm_up(self):
        growth = self.seen('memory in MiB', 10, 20, 50, 52, 51, 50, 70, 71, 69)
        self.assertEqual(growth.figures, ['host: memory in MiB 51 -> 70'])
        self.assertEqual(growth.violations, ['host grows: memory in MiB 51.0 -> 70.0'])

    def test_the_warm_up_is_no_growth(self):
        self.assertEqual(self.seen('memory in MiB', 10, 20, 50, 52, 51, 50, 53, 54, 55).violations, [])

    def test_descriptors_of_a_process_and_of_many(self):
        self.assertEqual(self.seen('descriptors', 0, 1020, 1034).violations, [])
        self.assertEqual(self.seen('descriptors', 0, 16, 26).violations, ['host grows: descriptors 16.0 -> 26.0'])

    def test_a_moment_is_no_growth(self):
        self.assertEqual(self.seen('threads', 5, 5, 5, 5, 5, 5, 5, 90, 5).violations, [])

    def test_too_few_looks(self):
        self.assertEqual(self.seen('threads', 5, 6).figures, [])

    def test_what_a_process_takes(self):
        """In a process of its own, where nothing else comes and goes."""
        with subprocess.Popen([sys.executable, '-c', TAKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            before = taken([process.pid])
            process.stdin.write(b'\n')
            process.stdin.flush()
            process.stdout.readline()
            after = taken([process.pid])
            process.stdin.close()
        self.assertEqual(after['descriptors'] - before['descriptors'], 9)
        self.assertEqual(after['threads'] - before['threads'], 4)
        self.assertAlmostEqual(after['memory in MiB'] - before['memory in MiB'], 50, delta=5)

    def test_a_process_that_has_ended_takes_nothing(self):
        process = subprocess.Popen(['true'])
        process.wait()
        self.assertEqual(sum(taken([process.pid]).values()), 0)


class TestBeside(unittest.TestCase):

    def test_a_directory_without_programs(self):
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit):
            main(['--scenario', 'upgrade', '--beside', '/nowhere'])
        self.assertIn('--beside: there is no bin/remotetask and bin/runzeo in /nowhere', said.getvalue())


if __name__ == '__main__':
    unittest.main()
