"""Applies each mutant to a copy of the packages and demands that its named test fails there.

    python -m tests.mutants              all of them
    python -m tests.mutants NAME ...     those whose name contains one of the words
    python -m tests.mutants --survey ... show which tests of the mutant's files fail, to choose the one to name

The shipped code carries no switches: a mutant is an edit of the source, made in a temporary directory. A mutant whose
text is not found exactly once is stale and fails the run before any test is run, whatever was chosen, and so does a
named test that does not pass unmutated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import catalogue, processes, redis_log
from tests.mutants.catalogue import Mutant

REPOSITORY = Path(__file__).resolve().parents[2]
COPIED = ("websocket_core", "bridge", "tests", "pyproject.toml")
MUTANTS = (*catalogue.MUTANTS, *redis_log.MUTANTS, *processes.MUTANTS)
AT_ONCE = 2 * (os.cpu_count() or 2)
"""Many of them are killed by a deadline, and a test that waits costs no processor."""
TRIES = 3
"""How often a test may miss a mutant that it is to kill, when something in it is drawn by lot. It is told when it did:
such a test is to be mended."""
FAILED = 1
"""What pytest exits with when tests ran and some failed; anything else is no kill."""


def copy_to(target: Path, source: Path = REPOSITORY) -> None:
    """Copies, with the bytecode of files that are copied from another copy."""
    ignored = shutil.ignore_patterns(".hypothesis", *(["__pycache__"] if source == REPOSITORY else []))
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=ignored)
        else:
            shutil.copy2(source / name, target / name)


def mutate(root: Path, mutant: Mutant) -> str | None:
    """Apply the edits; what is wrong with them if they do not fit the source any more."""
    for edit in mutant.edits:
        path = root / edit.file
        source = path.read_text()
        found = source.count(edit.old)
        if found != 1:
            return f"stale: its text stands {found} times in {edit.file}"
        path.write_text(source.replace(edit.old, edit.new))
        for bytecode in path.parent.glob(f"__pycache__/{path.stem}.*"):
            bytecode.unlink()
    return None


def fault_of(mutant: Mutant, root: Path) -> str | None:
    """What is wrong with a mutant that no test is needed to find out."""
    sources: dict[str, str] = {}
    for edit in mutant.edits:
        if not (root / edit.file).is_file():
            return f"stale: there is no {edit.file}"
        source = sources.setdefault(edit.file, (root / edit.file).read_text())
        if (found := source.count(edit.old)) != 1:
            return f"stale: its text stands {found} times in {edit.file}"
        if edit.new == edit.old:
            return f"its edit of {edit.file} changes nothing"
        sources[edit.file] = source.replace(edit.old, edit.new)
    for name, source in sources.items():
        try:
            compile(source if name.endswith(".py") else "", name, "exec")
        except SyntaxError as error:
            return f"stale: with its edit, {name} cannot be read any more: {error.msg} (line {error.lineno})"
    return None if mutant.killers else "no test is named that kills it"


def faults(mutants: Sequence[Mutant], root: Path) -> list[str]:
    names = Counter(mutant.name.partition(" ")[0] for mutant in mutants)
    twice = [f"{name}: the name of {count} mutants" for name, count in names.items() if count > 1]
    return twice + [f"{mutant.name}: {fault}" for mutant in mutants if (fault := fault_of(mutant, root))]


def run_tests(root: Path, tests: tuple[str, ...], *more: str, keep_bytecode: bool = False) -> tuple[int, str]:
    """pytest's exit code and output. The mutated packages are imported, since the directory comes first."""
    # Plain assertions: nobody reads what was compared with what, and some of it takes longer than a test may.
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--assert=plain"]
    command = [sys.executable, "-m", "pytest", *options, *more, *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "" if keep_bytecode else "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant, template: Path, survey: bool) -> tuple[bool, str]:
    """Whether the mutant was killed, and a word about it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        root = Path(directory)
        copy_to(root, template)
        if fault := mutate(root, mutant):
            return False, fault
        if survey:
            files = tuple(dict.fromkeys(test.partition("::")[0] for test in mutant.killers))
            _code, output = run_tests(root, files, "--timeout=20", "-x" if len(files) > 5 else "--maxfail=40")
            return True, "\n    ".join(["", *(line for line in output.splitlines() if line.startswith("FAILED"))])
        missed = 0
        for test in mutant.killers:
            for _ in range(TRIES):
                code, output = run_tests(root, (test,), "-x", "--timeout=20")
                if code != 0:
                    break
                missed += 1
            if code != FAILED:
                return False, f"survived {test} (pytest exited with {code})\n{output[-1500:] if code > 1 else ''}"
    return True, f"killed by {', '.join(mutant.killers)}{f', which missed it {missed} times' if missed else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--survey", action="store_true")
    arguments = parser.parse_args()
    chosen = [
        mutant for mutant in MUTANTS if not arguments.names or any(name in mutant.name for name in arguments.names)
    ]
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        template = Path(directory)  # of one moment, whoever edits the sources meanwhile
        copy_to(template)
        return run(chosen, template, survey=arguments.survey)


def run(chosen: Sequence[Mutant], template: Path, *, survey: bool) -> int:
    began = time.monotonic()
    if found := faults(MUTANTS, template):
        print("\n".join(found))
        print(f"{len(found)} mutants do not fit the source any more: mend or remove them")
        return 1
    if not survey:
        killers = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.killers))
        code, output = run_tests(template, killers, keep_bytecode=True)
        if code != 0:
            print(output[-3000:])
            print("the named tests do not pass without a mutant, so they prove nothing")
            return 1
    survivors = 0
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        judged = pool.map(lambda each: judge(each, template, survey), chosen)
        for mutant, (killed, word) in zip(chosen, judged, strict=True):
            survivors += not killed
            print(f"{'ok  ' if killed else 'LIVE'} {mutant.name}: {word}", flush=True)
    print(
        f"{len(chosen)} mutants, {len(chosen) - survivors} killed, {survivors} alive, {time.monotonic() - began:.0f} s"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
