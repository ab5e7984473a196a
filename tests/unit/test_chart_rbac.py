"""What the chart lets the operator, and users, do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helmchart import NAMESPACE, VARIANTS, Chart, Manifest, Rendered


@pytest.fixture
def chart(helm: Path, tmp_path: Path) -> Chart:
    return Chart(helm, tmp_path)


LEADER = "flowbinding-leader"


def of_the_work(rendered: Rendered, kind: str) -> list[Manifest]:
    """Roles or their bindings without those of the leader election."""
    return [item for item in rendered.of(kind) if item["metadata"]["name"] != LEADER]


def rules(rendered: Rendered) -> Iterator[Manifest]:
    for role in rendered.of("Role") + rendered.of("ClusterRole"):
        yield from role["rules"]


def granted(role: Manifest) -> dict[str, set[str]]:
    """Verbs by `group/resource`."""
    return {
        f"{group}/{resource}": set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


OPERATOR = {
    "flowbinding.io/flowbindings": {"list", "watch"},
    "flowbinding.io/flowbindings/status": {"patch"},
    "flowbinding.io/flowbindings/finalizers": {"update"},
    "apps/deployments": {"get", "list", "watch", "create", "patch", "delete"},
    "apps/deployments/scale": {"patch"},
    "batch/cronjobs": {"get", "list", "watch", "create", "patch", "delete"},
    "batch/jobs": {"list", "watch"},
    "/configmaps": {"get", "create", "patch"},
    "/secrets": {"get"},
    "/pods": {"list"},
    "events.k8s.io/events": {"create"},
}


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_no_rule_has_a_wildcard(chart: Chart, values: dict[str, Any]) -> None:
    for rule in rules(chart.render(**values)):
        assert "*" not in str(rule)
        assert "nonResourceURLs" not in rule


def test_the_whole_cluster_takes_one_cluster_role(chart: Chart) -> None:
    rendered = chart.render(rbac={"aggregate": False})
    assert not of_the_work(rendered, "Role")
    assert not of_the_work(rendered, "RoleBinding")
    role = rendered.one("ClusterRole")
    assert granted(role) == OPERATOR
    binding = rendered.one("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"] == "operators-flowbinding"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "flowbinding", "namespace": NAMESPACE}
    ]


def test_named_namespaces_take_a_role_each_and_nothing_cluster_wide(chart: Chart) -> None:
    names = ["orders", "billing"]
    rendered = chart.render(watchNamespaces=names, rbac={"aggregate": False})
    assert not rendered.of("ClusterRole")
    assert not rendered.of("ClusterRoleBinding")
    roles, bindings = of_the_work(rendered, "Role"), of_the_work(rendered, "RoleBinding")
    assert [role["metadata"]["namespace"] for role in roles] == names
    assert [role["metadata"]["namespace"] for role in bindings] == names
    for role, binding in zip(roles, bindings, strict=True):
        assert granted(role) == OPERATOR
        assert binding["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": role["metadata"]["name"],
        }
        assert binding["subjects"][0]["namespace"] == NAMESPACE
    assert rendered.environment["FLOWBINDING_OPERATOR_NAMESPACES"] == "orders,billing"


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["orders"]}], ids=str)
def test_the_election_takes_one_lease_where_the_operator_is(
    chart: Chart, values: dict[str, Any]
) -> None:
    rendered = chart.render(**values)
    (role,) = [item for item in rendered.of("Role") if item["metadata"]["name"] == LEADER]
    (binding,) = [i for i in rendered.of("RoleBinding") if i["metadata"]["name"] == LEADER]
    create, own = role["rules"]
    assert create["verbs"] == ["create"]
    assert (own["verbs"], own["resourceNames"]) == (["get", "update"], ["flowbinding"])
    assert create["resources"] == own["resources"] == ["leases"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == NAMESPACE
    assert binding["roleRef"]["name"] == LEADER
    assert rendered.environment["FLOWBINDING_OPERATOR_LEASE"] == f"{NAMESPACE}/flowbinding"


def test_aggregated_roles_speak_of_flowbindings_only(chart: Chart) -> None:
    roles = {role["metadata"]["name"]: role for role in chart.render().of("ClusterRole")}
    view, edit = roles["operators-flowbinding-view"], roles["operators-flowbinding-edit"]
    for role in (view, edit):
        assert all(name.startswith("flowbinding.io/flowbindings") for name in granted(role))
    assert set.union(*granted(view).values()) == {"get", "list", "watch"}
    assert "flowbinding.io/flowbindings/status" not in granted(edit)
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert view["metadata"]["labels"][f"{prefix}view"] == "true"
    assert f"{prefix}view" not in edit["metadata"]["labels"]
    assert edit["metadata"]["labels"][f"{prefix}edit"] == "true"


def test_nothing_is_granted_when_the_user_does_it(chart: Chart) -> None:
    assert not list(rules(chart.render(rbac={"create": False})))
