"""The chart's values: one class for values.yaml, its schema and the table in the chart's README.

``make golden`` writes all three from here. What jobs' pods may be told is the job file's own class.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from k8s.placement import (
    Few,
    Labels,
    Name,
    PodSettings,
    Reference,
    Resources,
    Toleration,
    Variable,
)
from pangu_core.config.base import Items, Positive, Settings

Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65_535)]
Duration = Annotated[str, Field(pattern=r"^[0-9]+(ms|s|m|h)$")]
Annotations = dict[str, str]


class Image(Settings):
    """An image of `images/controller`."""

    repository: Annotated[str, Field(min_length=1)] = "pangu-controller"
    """Name with its registry, without a tag."""
    tag: str = ""
    """Default: the chart's appVersion."""
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Goes before the tag."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    pull_secrets: Few[Reference] = ()
    """Secrets for the registry, in the release's namespace."""


class Watch(Settings):
    """Where jobs are worked on."""

    namespaces: Items[Namespace] = ()
    """Namespaces to watch; default: the release's own. They must exist: each gets a Role."""
    all_namespaces: bool = False
    """Watch every namespace, by a ClusterRole."""
    nodes: bool = False
    """Read nodes, by a ClusterRole: pods of a lost node are then replaced at once. Without it a lost
    node is noticed when Kubernetes evicts its pods."""
    autoscalers: bool = False
    """Make HorizontalPodAutoscalers, and ScaledObjects where KEDA is, for services that ask for
    them."""
    queues: bool = False
    """Read Kueue's Workloads: a job that waits in a queue then says why."""


class Crds(Settings):
    """The definitions of PanguJob and PanguService. A cluster has them once."""

    enabled: bool = True
    """Install and upgrade them. A second release in the same cluster needs `false`."""
    keep: bool = True
    """Keep them on uninstall. Deleting a definition deletes every job in the cluster."""
    adopt: bool = False
    """Take them over from a release that is gone; with `helm install --take-ownership`."""


class UserRoles(Settings):
    """ClusterRoles pangu-edit and pangu-view, which become part of admin, edit and view."""

    enabled: bool = True
    """Install them where the definitions are installed (`crds.enabled`)."""


class Controller(Settings):
    """The controller's Deployment."""

    replicas: Annotated[int, Field(ge=1, le=10)] = 2
    """One works, the others wait for its Lease."""
    workers: Annotated[int, Field(ge=1, le=64)] = 16
    """Jobs that are worked on at one time."""
    resources: Resources = Resources(
        requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "512Mi"}
    )
    """Requests and limits."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels a node must have."""
    tolerations: Few[Toleration] = ()
    """Taints to bear."""
    affinity: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Kubernetes' affinity, passed on as it is."""
    spread_over: Items[Name] = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    """Node labels over whose values replicas are spread where possible."""
    priority_class_name: str = ""
    """PriorityClass of the pods, such as system-cluster-critical."""
    disruption_budget: bool = True
    """A PodDisruptionBudget: a drain takes one replica at a time."""
    grace_period: Annotated[int, Field(ge=10, le=600)] = 30
    """Seconds for a turn to end and the Lease to be given back."""
    env: Items[Variable] = ()
    """Further environment variables, such as a proxy's."""
    labels: Labels = Field(default_factory=dict)
    """Further labels of the pods."""
    annotations: Annotations = Field(default_factory=dict)
    """Further annotations of the pods."""


class ServiceAccount(Settings):
    """Whose rights the controller has. No other pod gets an API token."""

    create: bool = True
    """Make it; with `false` it must exist."""
    name: str = ""
    """Default: pangu-controller."""
    annotations: Annotations = Field(default_factory=dict)
    """Annotations, such as those of a cloud's identities."""


class Defaults(Settings):
    """What jobs get where they do not say otherwise."""

    store_image: str = ""
    """Image of the rendezvous store of each training attempt; default: the controller's."""
    pods: PodSettings = PodSettings()
    """As `spec.pods` of a PanguJob, and below it: a field that a job sets holds as a whole."""


class Requirement(Settings):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Items[str] = ()


class Selector(Settings):
    """A label selector; empty: everything."""

    match_labels: dict[str, str] | None = None
    match_expressions: Items[Requirement] | None = None


class IpBlock(Settings):
    """A range of addresses."""

    cidr: str
    except_: Items[str] | None = Field(default=None, alias="except")


class Peer(Settings):
    """Who may be reached, or may reach."""

    ip_block: IpBlock | None = None
    namespace_selector: Selector | None = None
    pod_selector: Selector | None = None


class PolicyPort(Settings):
    """A port, or several in a row."""

    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: Port
    end_port: Port | None = None


class EgressRule(Settings):
    """Where packets may go; no peers: anywhere; no ports: any."""

    to: Items[Peer] | None = None
    ports: Items[PolicyPort] | None = None


class ControllerPolicy(Settings):
    """For the controller: in for probes and metrics; out to the API server, DNS and trainers."""

    enabled: bool = False
    """Install it."""
    metrics_from: Items[Peer] = ()
    """Who may ask for metrics; default: anybody."""
    api_server_ports: Items[Port] = (443, 6443)
    """Ports of the API server, whose address is nobody's pod."""
    egress: Items[EgressRule] = ()
    """Further ways out."""


class JobsPolicy(Settings):
    """For the pods of jobs: among each other in their namespace, DNS, and what is listed here."""

    enabled: bool = False
    """Install it in each of the namespaces."""
    namespaces: Items[Namespace] = ()
    """Default: those that are watched by name."""
    metrics_from: Items[Peer] = ()
    """Who but the controller may ask for progress and metrics; default: nobody."""
    egress_ports: Items[Port] = (443,)
    """Ports outside the cluster's pods that fetch, export and copies of checkpoints go to."""
    egress: Items[EgressRule] = ()
    """Further ways out, such as to an object store in the cluster."""


class NetworkPolicies(Settings):
    """They need a network that enforces them; others ignore them."""

    controller: ControllerPolicy = ControllerPolicy()
    """For the controller."""
    jobs: JobsPolicy = JobsPolicy()
    """For the pods of jobs."""


class Switch(Settings):
    """Whether there is one."""

    enabled: bool = False
    """Install it."""


class Rules(Settings):
    """A PrometheusRule: controller down or failing, queue long, job hung, restarts burning."""

    enabled: bool = False
    """Install it."""
    hung_seconds: Positive = 1800
    """Age of a job's last step that is worth an alert: the launcher has given up by then."""
    restarts_per_hour: Positive = 5
    """Restarts of one job in an hour that are worth an alert."""
    queue_length: Positive = 100
    """Jobs that wait for the controller, for ten minutes, that are worth an alert."""


class Dashboard(Settings):
    """A ConfigMap with a dashboard, for Grafana's sidecar."""

    enabled: bool = False
    """Install it."""
    labels: dict[str, str] = Field(default_factory=lambda: {"grafana_dashboard": "1"})
    """Labels that the sidecar looks for."""


class Monitoring(Settings):
    """For the Prometheus operator and Grafana, whose own definitions must be there."""

    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of monitors and rules, such as `release: prometheus`."""
    interval: Duration = "30s"
    """Time between two questions."""
    service_monitor: Switch = Switch()
    """A ServiceMonitor for the controller."""
    pod_monitor: Switch = Switch()
    """A PodMonitor for the trainers of the namespaces that are watched."""
    rules: Rules = Rules()
    """Alerts."""
    dashboard: Dashboard = Dashboard()
    """A dashboard."""


class ChartValues(Settings):
    """Values of the chart pangu-finetune."""

    image: Image = Image()
    """The controller's image; it serves the rendezvous store as well."""
    watch: Watch = Watch()
    """Where jobs are worked on."""
    crds: Crds = Crds()
    """The definitions of PanguJob and PanguService."""
    user_roles: UserRoles = UserRoles()
    """What users may do with them."""
    controller: Controller = Controller()
    """The controller's Deployment."""
    service_account: ServiceAccount = ServiceAccount()
    """Whose rights the controller has."""
    defaults: Defaults = Defaults()
    """What jobs get where they do not say otherwise."""
    network_policies: NetworkPolicies = NetworkPolicies()
    """Who may talk to whom."""
    monitoring: Monitoring = Monitoring()
    """For the Prometheus operator and Grafana."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of every object of the chart."""
