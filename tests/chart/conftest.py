"""The chart, rendered by the real Helm without a cluster."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart

CHART = Path(__file__).parents[2] / "charts" / "pangu-finetune"
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def chart() -> Iterator[Chart]:
    """The chart as Helm loads it."""
    with Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def files(chart: Chart) -> Callable[..., dict[str, str]]:
    """``files(values)``: path -> rendered text, of release pangu in namespace research."""

    def rendered(values: dict[str, Any] | None = None, namespace: str = "research"):
        texts = chart.render(values or {}, name="pangu", namespace=namespace)
        return {path.removeprefix("pangu-finetune/"): text for path, text in texts.items()}

    return rendered


@pytest.fixture(scope="session")
def render(files: Callable[..., dict[str, str]]) -> Render:
    """``render(values)``: every object, but for the definitions, which are many lines."""

    def manifests(values: dict[str, Any] | None = None, **options: Any) -> list[Manifest]:
        texts = files(values, **options)
        wanted = (t for p, t in texts.items() if p.startswith("templates/") and "/crds/" not in p)
        documents = (each for text in wanted for each in _documents(text))
        return list(documents)

    return manifests


def _documents(text: str) -> Iterator[Manifest]:
    if text.lstrip().startswith(("apiVersion", "---", "#")):
        yield from (each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each)
