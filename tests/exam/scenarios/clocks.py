"""Clocks of hosts that jump."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import shutil
import subprocess
import sys

from exam.orders import anything
from exam.scenarios.schedules import Schedules
from exam.trial import RATE
from exam.trial import scenario


#: A library that moves the clock of a process, not its monotonic one, by the seconds in a file.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long none, *moved;

static long ahead(void) {
    if (!moved) {
        int file = open(getenv("EXAM_CLOCK"), O_RDONLY);
        void *there = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        moved = there == MAP_FAILED ? &none : there;
        close(file);
    }
    return *moved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now)
        *now = time.tv_sec;
    return time.tv_sec;
}
"""


def clockLibrary(directory):
    """Compile CLOCK in a directory and return its path; None when there is no C compiler."""
    source, library = (os.path.join(directory, name) for name in ('clock.c', 'clock.so'))
    with open(source, 'w') as file:
        file.write(CLOCK)
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        return None
    subprocess.run([compiler, '-shared', '-fPIC', '-O1', '-o', library, source], check=True)
    return library


@scenario(rate=RATE / 4, work=anything)
def clocks(trial):
    """The clocks of hosts jump, back and forth, by hours, days and years: nobody is taken for dead, all goes on."""
    deployment = trial.deployment
    library = clockLibrary(deployment.directory)
    if library is None:
        print('clocks: skipped, there is no C compiler', flush=True)
        return
    for host in deployment.hosts:
        path = os.path.join(deployment.directory, f'{host.name}.clock')
        host.environment = {'LD_PRELOAD': library, 'EXAM_CLOCK': path}
        move(host, 0)
        trial.terminate(host)
    deployment.restore()
    with contextlib.closing(deployment.server.database()) as database:
        schedules = Schedules(trial, database)
        for _ in range(4):
            schedules.add(delay=trial.rng.uniform(0.3, 3), newJobs=True, overlap=True)
        while trial.goesOn:
            trial.wait(0.5, 2)
            schedules.observe()
            seconds = trial.rng.choice([0, 0, 30, 3600, 86400, 366 * 86400, 3660 * 86400])
            seconds *= trial.rng.choice([1, -1])
            host = trial.drawHost()
            trial.fault(f'the clock of {host.name} is off by {seconds} s')
            move(host, seconds)
        for host in deployment.hosts:
            move(host, 0)
        schedules.end()
    trial.violations += [f'{host.name} has taken another host for dead' for host in deployment.hosts
                         if any('was silent' in line for line in host.process.said)]
    trial.check = lambda service: [text for text in schedules.check(service) if 'beats' in text]


def move(host, seconds):
    """Have the clock of a host, started with the library, be so many seconds ahead."""
    path = host.environment['EXAM_CLOCK']
    with open(path, 'r+b' if os.path.exists(path) else 'wb') as file:
        file.write(seconds.to_bytes(8, sys.byteorder, signed=True))
