"""Reporting of evaluation results."""

import logging
import math
import pprint
import sys
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Any]) -> None:
    """Log metrics in lines that can be pasted into a spreadsheet.

    Args:
        results: ``{task: {metric: value}}``, or ``{metric: value}``. Metrics with ``-`` in
            their name (per-class values) are left out.
    """
    assert isinstance(results, Mapping) or not results, (
        f"results must be a mapping, got {type(results).__name__}"
    )
    for task, metrics in (results or {}).items():
        if not isinstance(metrics, Mapping):
            logger.info(f"copypaste: {task}={metrics}")
            continue
        shown = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info(f"copypaste: Task: {task}")
        logger.info("copypaste: " + ",".join(shown))
        logger.info("copypaste: " + ",".join(f"{value:.4f}" for value in shown.values()))


def verify_results(cfg: CfgNode, results: Mapping[str, Any]) -> bool:
    """Compare results with ``cfg.TEST.EXPECTED_RESULTS``.

    Args:
        cfg: entries of ``TEST.EXPECTED_RESULTS`` are ``(task, metric, value, tolerance)``.
        results: ``{task: {metric: value}}``.

    Returns:
        True if all values are within their tolerance. Otherwise the process exits with
        status 1, after logging what differs.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    passed = True
    for task, metric, expected, tolerance in expected_results:
        actual = results[task].get(metric, None)
        if actual is None or not math.isfinite(actual) or abs(actual - expected) > tolerance:
            logger.error(f"{task}/{metric} is {actual}, expected {expected} +- {tolerance}")
            passed = False
    if not passed:
        logger.error(f"Results differ from TEST.EXPECTED_RESULTS:\n{pprint.pformat(results)}")
        sys.exit(1)
    if expected_results:
        logger.info("All expected results were reached.")
    return passed


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"bbox": {"AP": 1.0}}`` into ``{"bbox/AP": 1.0}``, at any depth."""
    flat: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{k}": v for k, v in flatten_results_dict(value).items()})
        else:
            flat[name] = value
    return flat
