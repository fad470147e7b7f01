import json
import re

import pytest

from controller.cluster import metrics
from pangu_core.launch.metrics import prometheus_text
from pangu_core.messages import Progress
from tests.chart.variants import EVERYTHING, EVERYWHERE, find


def test_alerts_and_dashboard_ask_for_metrics_that_exist(render):
    manifests = render(EVERYTHING)
    board = json.loads(find(manifests, "ConfigMap", "pangu-dashboard")["data"]["pangu-finetune.json"])  # fmt: skip
    groups = find(manifests, "PrometheusRule")["spec"]["groups"]
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [rule["expr"] for group in groups for rule in group["rules"]]
    assert len(asked) > 15
    named = {name for text in asked for name in re.findall(r"pangu_[a-z_]+", text)}
    assert named - {"pangu_job"} <= _metrics(), "pangu_job is a label"


@pytest.mark.parametrize("name", ["pangu-trainers", "pangu-services"])
def test_monitors_look_where_the_controller_does(render, name):
    monitor = find(render(EVERYTHING), "PodMonitor", name)["spec"]
    assert monitor["namespaceSelector"] == {"matchNames": ["research", "products"]}
    everywhere = find(render(EVERYWHERE), "PodMonitor", name)["spec"]
    assert everywhere["namespaceSelector"] == {"any": True}


def _metrics():
    """Names of all metrics that controller and launchers answer with."""
    own = metrics.Metrics()
    own.watch(queue=[], cache=_NoJobs())
    families = [family.name for family in own.registry.collect()]
    progress = Progress("step", 1, 2, 1.0, 1.0, 1.0, 1.0, 1.0, 0, restarts={"Lost": 1})
    text = prometheus_text(progress)
    found = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {f"{name}{suffix}" for name in {*families, *found} for suffix in suffixes}


class _NoJobs:
    def all(self, kind):
        return []
