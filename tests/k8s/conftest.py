"""A small job, to be changed by each test in one place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from k8s.spec import PanguJob, parse_job
from pangu_core.loading import dump_yaml

SMALL_JOB = {
    "apiVersion": "pangu-finetune.io/v1alpha1",
    "kind": "PanguJob",
    "metadata": {"name": "small"},
    "spec": {
        "image": "pangu-core:test",
        "workspace": {"claimName": "work"},
        "model": {"preset": "tiny"},
        "data": {"input": "corpus/*.txt"},
        "train": {"steps": 10, "globalBatchSize": 8},
    },
}


@pytest.fixture
def document() -> dict[str, Any]:
    """The job as plain values."""
    return copy.deepcopy(SMALL_JOB)


@pytest.fixture
def job() -> Callable[..., PanguJob]:
    """Parse the job with overrides: ``job("train.steps=3")``."""
    return lambda *overrides: parse_job(dump_yaml(SMALL_JOB), overrides)
