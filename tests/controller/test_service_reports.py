"""What the command line says of services, and which object a name means."""

from dataclasses import dataclass, field

import pytest

from controller.cluster.access import get_either
from controller.cluster.api import ApiError
from controller.cluster.kinds import JOB, SERVICE
from controller.cluster.services import scaled, service_details, service_row
from controller.status_command import aligned
from k8s.status import Condition, ServiceStatus, to_dict
from pangu_core.errors import ConfigError


def item(*conditions, **spec):
    found = tuple(Condition(*each, "why", 0, 1) for each in conditions)
    status = ServiceStatus(conditions=found, ready_replicas=1, address="http://novel.n.svc:8000/v1")
    return {
        "kind": "PanguService",
        "metadata": {"name": "novel"},
        "spec": {"model": "runs/novel/model", "replicas": 2, **spec},
        "status": to_dict(status),
    }


@dataclass
class Server:
    """Knows some objects, and remembers what was written."""

    names: set
    namespace: str = "n"
    written: list = field(default_factory=list)

    def get(self, kind, namespace, name):
        if (kind, name) not in self.names:
            raise ApiError(404, "NotFound", name)
        return {"kind": kind.name, "metadata": {"name": name}}

    def patch(self, kind, namespace, name, body, part=""):
        self.written.append((kind, name, body, part))


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], "New"),
        ([("Accepted", "False", "ClaimMissing"), ("Available", "False", "NotReady")], "ClaimMissing"),
        ([("Progressing", "False", "ErrImagePull"), ("Available", "True", "Answering")], "ErrImagePull"),
        ([("Progressing", "True", "RollingOut"), ("Available", "True", "Answering")], "RollingOut"),
    ],
)  # fmt: skip
def test_a_services_line_has_the_word_that_matters_most(conditions, state):
    line = aligned([service_row(item(*conditions))])
    assert line == f"novel  1/2  {state}  runs/novel/model  http://novel.n.svc:8000/v1"


def test_a_service_in_full_says_where_it_answers_and_why_it_does_not():
    text = service_details(item(("Progressing", "False", "ErrImagePull")))
    assert text.splitlines() == [
        "novel: 1/2 pods answer (ErrImagePull), model runs/novel/model",
        "  address http://novel.n.svc:8000/v1",
        "  Progressing: False (ErrImagePull): why",
    ]


@pytest.mark.parametrize(
    ("names", "name", "kind"),
    [
        ({(JOB, "a"), (SERVICE, "a")}, "a", "PanguJob"),
        ({(JOB, "a"), (SERVICE, "a")}, "ps/a", "PanguService"),
        ({(SERVICE, "a")}, "a", "PanguService"),
    ],
)
def test_a_name_is_a_jobs_before_it_is_a_services(names, name, kind):
    assert get_either(Server(names), name)["kind"] == kind


@pytest.mark.parametrize(("name", "kind"), [("a", "PanguJob"), ("ps/a", "PanguService")])
def test_a_name_of_nothing_is_refused(name, kind):
    with pytest.raises(ConfigError, match=f"{kind}: n/a: must exist"):
        get_either(Server(set()), name)


def test_scaling_writes_the_number_of_pods_and_nothing_else():
    server = Server(set())
    assert scaled(server, item(), 3) == "PanguService novel: 3 pods"
    assert server.written == [(SERVICE, "novel", {"spec": {"replicas": 3}}, "scale")]
    told = scaled(server, item(autoscale={"max": 4, "waiting": 1}), 3)
    assert told.endswith("; its autoscaler goes on from there")
