"""``python -m tests.vectors FILE.json...`` runs the cases of vector files against the library.

Exit status 0 if every case passed, 1 if one failed or has no adapter (unless ``--allow-missing``), 2 for a file that
cannot be read.
"""

import argparse
import sys

from tests.vectors.runner import UnreadableFile, read_cases, run_case, summary


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.vectors", description="Run vector files on our code.")
    parser.add_argument("files", nargs="+", metavar="FILE.json")
    parser.add_argument("--allow-missing", action="store_true", help="cases without an adapter are no failure")
    options = parser.parse_args(arguments)
    unreadable, failed, missing = False, False, False
    for path in options.files:
        try:
            cases = read_cases(path)
        except UnreadableFile as error:
            print(error, file=sys.stderr)
            unreadable = True
            continue
        outcomes = [run_case(case) for case in cases]
        print(summary(path, outcomes))
        failed |= any(outcome.status == "failed" for outcome in outcomes)
        missing |= any(outcome.status == "missing" for outcome in outcomes)
    if unreadable:
        return 2
    return int(failed or (missing and not options.allow_missing))


if __name__ == "__main__":
    sys.exit(main())
