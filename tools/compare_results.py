#!/usr/bin/env python
"""Print the metrics of several evaluations side by side.

tools/compare_results.py first=output/a/results.json second=output/b/results.json
tools/compare_results.py ... --metrics bbox/AP segm/AP
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from roca_nocs.evaluation.summary import DEFAULT_ROWS, SummaryRow, known_rows, summary_table


def labelled_path(text: str) -> tuple[str, Path]:
    label, separator, path = text.partition("=")
    if not (separator and label and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=PATH")
    return label, Path(path)


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results",
        nargs="+",
        type=labelled_path,
        metavar="LABEL=PATH",
        help="results.json that tools/train_net.py has written",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="TASK/NAME",
        help="rows to show; default: what the models are compared by, and what trivial predictors "
        "reach, as far as the files have it",
    )
    return parser


def read_results(path: Path) -> dict[str, Any]:
    """The metrics by task and name."""
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        sys.exit(f"error: {path} cannot be read: {error.strerror}")
    except ValueError as error:
        sys.exit(f"error: {path} is no JSON file: {error}")
    if not isinstance(results, dict):
        sys.exit(f"error: {path} holds no metrics by task, but a {type(results).__name__}")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(arguments)
    labels, paths = zip(*args.results, strict=True)
    results = [read_results(path) for path in paths]
    rows = known_rows(results, DEFAULT_ROWS)
    if args.metrics:
        rows = [SummaryRow(key, (key,)) for key in args.metrics]
    table = summary_table(results, rows)
    print(tabulate(table, ["", *labels], tablefmt="github", floatfmt=".1f", missingval="-"))


if __name__ == "__main__":
    main()
