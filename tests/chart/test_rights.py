from controller.cluster.kinds import AUTOSCALER, LEASE, SCALED_OBJECT
from controller.cluster.manager import LEASE_NAME, Settings, sources
from controller.cluster.territory import MARK
from tests.chart.variants import LEAST, VARIANTS, arguments, find


@VARIANTS
def test_no_rule_has_a_wildcard_or_a_secret(render, values):
    rules = [r for m in render(values) if m["kind"].endswith("Role") for r in m["rules"]]
    for rule in rules:
        words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"*", "secrets", "pods/exec", "escalate", "impersonate"} & set(words)


def test_every_kind_that_is_watched_may_be_listed(render):
    manifests = render({"watch": {"nodes": True, "autoscalers": True}})
    namespaced = find(manifests, "Role")["rules"]
    cluster = find(manifests, "ClusterRole", "pangu-controller-research-nodes")["rules"]
    settings = Settings(
        identity="a",
        lease_namespace="b",
        namespaces=("b",),
        watch_nodes=True,
        watch_autoscalers=True,
    )
    for source in sources(settings):
        allowed = _verbs(namespaced if source.kind.namespaced else cluster, source.kind)
        assert {"list", "watch"} <= allowed, source.kind.plural


def test_autoscalers_may_be_made_only_where_that_is_asked_for(render):
    without, given = (
        find(render({"watch": {"autoscalers": each}}), "Role")["rules"] for each in (False, True)
    )
    for kind in (AUTOSCALER, SCALED_OBJECT):
        assert _verbs(without, kind) == set()
        assert _verbs(given, kind) == {"get", "list", "watch", "create", "patch", "delete"}
    assert "--watch-autoscalers" in arguments(render({"watch": {"autoscalers": True}}))


def test_the_lease_is_the_only_one_that_may_be_written(render):
    rules = find(render(), "Role", "pangu-controller-lease")["rules"]
    named = [rule for rule in rules if "resourceNames" in rule]
    assert _verbs(rules, LEASE) == {"create", "get", "update"}
    assert [(rule["resourceNames"], rule["verbs"]) for rule in named] == [
        ([LEASE_NAME], ["get", "update"])
    ]


def test_by_default_nothing_reaches_beyond_the_releases_namespace(render):
    cluster_wide = {m["metadata"]["name"] for m in render() if "namespace" not in m["metadata"]}
    assert cluster_wide == {"pangu-edit", "pangu-view"}  # for users, not for the controller
    assert {m["metadata"]["namespace"] for m in render(LEAST)} == {"research"}


def test_each_watched_namespace_has_a_role(render):
    manifests = render({"watch": {"namespaces": ["a", "b"]}})
    for namespace in ("a", "b"):
        (subject,) = find(manifests, "RoleBinding", namespace=namespace)["subjects"]
        assert (subject["name"], subject["namespace"]) == ("pangu-controller", "research")
    assert arguments(manifests)[:3] == ["--namespace=a", "--namespace=b", "--lease-namespace=research"]  # fmt: skip


def test_all_namespaces_take_one_cluster_role(render):
    manifests = render({"watch": {"allNamespaces": True}})
    assert find(manifests, "ClusterRole")["rules"] == find(render(), "Role")["rules"]
    assert arguments(manifests)[0] == "--all-namespaces"
    assert [m["metadata"]["name"] for m in manifests if m["kind"] == "Role"] == ["pangu-controller-lease"]  # fmt: skip


def test_users_roles_become_part_of_edit_and_view(render):
    manifests = render()
    prefix = "rbac.authorization.k8s.io/aggregate-to"
    edit = find(manifests, "ClusterRole", "pangu-edit")["metadata"]["labels"]
    view = find(manifests, "ClusterRole", "pangu-view")["metadata"]["labels"]
    assert edit[f"{prefix}-edit"] == view[f"{prefix}-view"] == "true"
    assert f"{prefix}-view" not in edit
    assert not [m for m in render({"userRoles": {"enabled": False}}) if m["kind"] == "ClusterRole"]


def _verbs(rules, kind):
    fitting = [r for r in rules if kind.group in r["apiGroups"] and kind.plural in r["resources"]]
    return {verb for rule in fitting for verb in rule["verbs"]}


def test_each_namespace_that_is_watched_by_name_is_marked(render):
    def marked(values):
        manifests = render(values)
        return [m["metadata"]["namespace"] for m in manifests if m["metadata"]["name"] == MARK]

    assert marked({"watch": {"namespaces": ["a", "b"]}}) == ["a", "b"]
    assert marked({}) == ["research"]
    assert marked({"watch": {"allNamespaces": True}}) == []
