"""What launchers answer on /metrics, read with Prometheus' own parser."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from pangu_core.launch.metrics import PHASES, prometheus_text
from pangu_core.messages import Progress

TRAINING = Progress(
    "step",
    step=30,
    steps=100,
    loss=2.5,
    validation_loss=2.75,
    tokens_per_second=1_000.0,
    last_step_age_seconds=0.5,
    heartbeat_age_seconds=0.25,
    skipped_steps=2,
    round=3,
    world_size=8,
    restarts={"crash": 2, "stall": 1},
)


def parsed(progress):
    families = list(text_string_to_metric_families(prometheus_text(progress)))
    return families, {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


def test_everything_that_progress_knows_is_a_metric():
    _, values = parsed(TRAINING)
    phases = {("pangu_train_phase", phase): float(phase == "step") for phase in PHASES}
    assert values == phases | {
        ("pangu_train_step",): 30.0,
        ("pangu_train_steps",): 100.0,
        ("pangu_train_loss",): 2.5,
        ("pangu_train_validation_loss",): 2.75,
        ("pangu_train_tokens_per_second",): 1_000.0,
        ("pangu_train_last_step_age_seconds",): 0.5,
        ("pangu_train_heartbeat_age_seconds",): 0.25,
        ("pangu_train_skipped_steps",): 2.0,
        ("pangu_train_round",): 3.0,
        ("pangu_train_world_size_ranks",): 8.0,
        ("pangu_train_restarts_total", "crash"): 2.0,
        ("pangu_train_restarts_total", "stall"): 1.0,
    }


def test_every_metric_explains_itself():
    families, _ = parsed(TRAINING)
    assert all(family.documentation.endswith(".") for family in families)
    assert {family.type for family in families} == {"gauge", "counter"}


def test_what_is_not_known_is_left_out():
    _, values = parsed(Progress("wait"))
    assert ("pangu_train_loss",) not in values
    assert ("pangu_train_last_step_age_seconds",) not in values
    assert values["pangu_train_phase", "wait"] == 1.0
    assert values["pangu_train_world_size_ranks",] == 0.0


def test_a_launcher_does_not_wait_for_the_library():
    code = "import sys, pangu_core.entry.train_pod; print('prometheus_client' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
