#!/usr/bin/env python3
"""Plants bugs in kernels/cuda, one at a time, and says which check of the emulator's tests sees each.

usage: tests/cuda/mutate.py BUILD [--quick] [--only EXPRESSION] [--jobs N]

BUILD is a Meson build directory with the emulated back end in it. A bug is a text replaced in one file
(mutations.py); only that object of the module is built again. The test program of the area then runs under three
schedules, and at last race.c under ThreadSanitizer, until one of them fails. The code as it is must pass all of them.
Objects are kept in BUILD/mutants by what they were made of. Exits with 1 if a bug was missed or the code was blamed.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import time

from mutations import BUGS, FAMILIES

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / 'kernels/cuda'
ORDERS = ['forward', 'reverse', 'random:1']
SECONDS = 120


class Builder:
    """Objects and modules of the emulated back end, from sources that a bug may have changed."""

    def __init__(self, build):
        self.build = build
        self.work = build / 'mutants'
        self.lock = threading.Lock()
        self.compiling = {}
        self.sources = {f.name: f.read_text() for f in sorted(KERNELS.glob('*')) if f.suffix in ('.cu', '.cuh', '.h')}
        headers = [f for d in ('tests/cuemu', 'kernels', 'base', 'comm') for f in sorted((ROOT / d).glob('*.h'))]
        self.twins = hashlib.sha256(b''.join(f.read_bytes() for f in headers))
        self.commands = {}
        for entry in json.loads((build / 'compile_commands.json').read_text()):
            if entry['output'].startswith('tests/cuda/inferd_cuda.so.p/'):
                words = shlex.split(entry['command'])
                for option in ('-MQ', '-MF', '-o', '-c'):
                    at = words.index(option)
                    del words[at:at + 2]
                words.remove('-MD')
                name = pathlib.Path(entry['file']).stem.removesuffix('_cuemu')
                self.commands[name] = (words, entry['output'])
        link = subprocess.run(['ninja', '-C', build, '-t', 'commands', 'tests/cuda/inferd_cuda.so'], text=True,
                              stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
        self.link_words = shlex.split(link)

    def object(self, unit, changed, tsan):
        """The object of a .cu file, compiled once for what it is made of."""
        words = self.commands[unit][0] + ['-w'] + (['-fsanitize=thread'] if tsan else [])
        files = {name: text for name, text in {**self.sources, **changed}.items()
                 if name.endswith('.cuh') or name.endswith('.h') or name == unit + '.cu'}
        key = self.twins.copy()
        key.update(repr((words, sorted(files.items()))).encode())
        out = self.work / 'objects' / (unit + '-' + key.hexdigest()[:24] + '.o')
        with self.lock:
            running = self.compiling.setdefault(out, threading.Lock())
        with running:
            if not out.exists():
                tree = out.with_suffix('.src')
                tree.mkdir(parents=True, exist_ok=True)
                for name, text in files.items():
                    (tree / name.replace('.cu', '.cpp') if name == unit + '.cu' else tree / name).write_text(text)
                made = out.with_suffix('.tmp')
                run = subprocess.run([words[0], f'-I{tree}', *words[1:], '-o', made, '-c', tree / (unit + '.cpp')],
                                     cwd=self.build, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if run.returncode:
                    raise SystemExit(f'{unit}.cu does not compile:\n{run.stdout[:2000]}')
                made.rename(out)
        return out

    def module(self, name, changed, units, tsan_units=()):
        """A folder with a module whose `units` and `tsan_units` are built anew, and the rest taken from the build."""
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        words = list(self.link_words)
        words[words.index('-o') + 1] = str(folder / 'inferd_cuda.so')
        for unit in {*units, *tsan_units}:
            words[words.index(self.commands[unit][1])] = str(self.object(unit, changed, unit in tsan_units))
        subprocess.run(words, cwd=self.build, check=True)
        return folder


def run_tests(program, case, folder, **env):
    """None if the program passed, else how it failed."""
    env = {**os.environ, 'INFERD_MODULES': str(folder), 'CUEMU_LAZY': '1', 'CUEMU_STRICT': '1', 'CUEMU_SPIN': '3',
           'CK_FORK': 'no', 'TSAN_OPTIONS': 'halt_on_error=1 atexit_sleep_ms=0 exitcode=66', **env}
    if case:
        env['CK_RUN_CASE'] = case
    try:
        run = subprocess.run([program], env=env, text=True, errors='replace', stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return 'hangs'
    if run.returncode == 0:
        return None if 'Checks: 0' not in run.stdout else f'no case {case}'
    for sign, word in (('data race', 'race'), ('deadlock', 'deadlock'), ('cuemu:', 'emulator'), (':F:', 'wrong'),
                       (':E:', 'crash')):
        if sign in run.stdout:
            return word
    return 'crash' if run.returncode < 0 else f'exit {run.returncode}: {run.stdout[-1000:]}'


class Checks:
    """What a module has to pass: the area's test program under every schedule, then race.c with ThreadSanitizer."""

    def __init__(self, builder):
        self.builder = builder
        self.tests = builder.build / 'tests/cuda'

    def schedules(self, family, test, case, folder):
        for order in ORDERS:
            how = run_tests(self.tests / ('test_cuda_' + test), case, folder, CUEMU_ORDER=order,
                            **FAMILIES[family].get('env', {}))
            if how:
                return f'{order}: {how}'
        return None

    def races(self, family, name, changed):
        folder = self.builder.module(name + '-tsan', changed, (), FAMILIES[family]['units'])
        how = run_tests(self.tests / 'cuda_race', family, folder, CUEMU_ORDER='forward',
                        **FAMILIES[family].get('env', {}))
        return how and f'tsan: {how}'


def planted(builder, bug):
    """The text of the file with the bug in it."""
    text = builder.sources.get(bug.file, '')
    if text.count(bug.old) != 1:
        raise SystemExit(f'{bug.name}: its text is {text.count(bug.old)} times in {bug.file}:\n{bug.old}')
    return {bug.file: text.replace(bug.old, bug.new)}


def test_of(bug):
    return bug.test or FAMILIES[bug.family]['test']


def try_bug(builder, checks, number, bug):
    start, changed, name = time.monotonic(), planted(builder, bug), f'bug{number}'
    seen = None
    if not bug.race:
        folder = builder.module(name, changed, bug.units or [bug.file.removesuffix('.cu')])
        seen = checks.schedules(bug.family, test_of(bug), bug.case, folder)
    if not seen:
        seen = checks.races(bug.family, name, changed)
    return seen, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('build', type=pathlib.Path)
    parser.add_argument('--quick', action='store_true', help='a few bugs of every kind, and races of the code as it is')
    parser.add_argument('--only', default='', help='bugs whose "area: name" matches this expression')
    parser.add_argument('--jobs', type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    start = time.monotonic()
    build = args.build.resolve()
    bugs = [b for b in BUGS if re.search(args.only, f'{b.family}: {b.name}') and (b.quick or not args.quick)]
    families = sorted({b.family for b in bugs})
    subprocess.run(['ninja', '-C', build, 'tests/cuda/inferd_cuda.so', 'tests/cuda/cuda_race',
                    *('tests/cuda/test_cuda_' + t for t in sorted({test_of(b) for b in bugs}))],
                   check=True, stdout=subprocess.DEVNULL)
    builder = Builder(build)
    checks = Checks(builder)
    for bug in BUGS:
        planted(builder, bug)
    caught, blamed = 0, False
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        def clean(family):
            cases = sorted({(test_of(b), b.case or '') for b in bugs if b.family == family and not b.race})
            if args.quick:  # ./test has done that
                cases = []
            return next(filter(None, (checks.schedules(family, *c, build / 'tests/cuda') for c in cases)), None) \
                or checks.races(family, 'clean-' + family, {})
        for family, seen in zip(families, pool.map(clean, families)):
            print(f'{"the code as it is: " + family:62s} {seen or "passes"}', flush=True)
            blamed |= bool(seen)
        tries = [pool.submit(try_bug, builder, checks, i, b) for i, b in enumerate(bugs)]
        for bug, done in zip(bugs, tries):
            seen, seconds = done.result()
            caught += bool(seen)
            print(f'{bug.family + ": " + bug.name:62s} {seen or "MISSED":22s} {seconds:5.1f} s', flush=True)
    print(f'{time.monotonic() - start:.0f} s')
    print(f'{caught} of {len(bugs)} caught')
    return 1 if blamed or caught < len(bugs) else 0


if __name__ == '__main__':
    sys.exit(main())
