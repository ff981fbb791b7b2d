"""Speed of the refiners' operators in one table.

python -m benchmarks.refiners --data PATH_OF_MSRC_MINI
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import crf, diffusion

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed of CRF, random walk and PAMR against plain references.")
    parser.add_argument("--data", type=Path, required=True, help="a VOC tree")
    rows = [row for module in (diffusion, crf) for row in module.rows(parser.parse_args().data)]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(name, "")).replace("None", "") for name in columns))
    Console().print(table)
