"""All operators of the refiners beside plain references: writes results/diffusion.csv and results/crf.csv, shows both.

    PYTHONPATH=DIR python -m benchmarks.refiners --data PATH_OF_MSRC_MINI

``DIR`` has pydensecrf2, see ``crf``.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import crf, diffusion
from benchmarks.timing import Row, write_table

COLUMNS = 9  # as many as fit beside each other


def shown(rows: list[Row], title: str) -> list[Table]:
    """A table in pieces that fit into a terminal; each begins with what the row is about."""
    names = list(rows[0])
    about, rest = names[:3], names[3:]
    pieces = [rest[start : start + COLUMNS - len(about)] for start in range(0, len(rest), COLUMNS - len(about))]
    tables = [Table(*about, *piece, title=title) for piece in pieces]
    for table, piece in zip(tables, pieces, strict=True):
        for row in rows:
            table.add_row(*("" if row[name] is None else str(row[name]) for name in (*about, *piece)))
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed of CRF, random walk and PAMR beside plain references.")
    parser.add_argument("--data", type=Path, required=True, help="a VOC tree")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the tables")
    arguments = parser.parse_args()
    for name, module in (("diffusion", diffusion), ("crf", crf)):
        rows = module.rows(arguments.data)
        write_table(rows, arguments.out / f"{name}.csv")
        for table in shown(rows, name):
            Console().print(table)
