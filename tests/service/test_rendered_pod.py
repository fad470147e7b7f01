"""The pod of a PanguService, as it is rendered, is one that serves."""

import yaml

from k8s import names
from k8s.render import render_service
from k8s.spec import parse
from tests.service.conftest import KEY, running

SERVICE = """
apiVersion: pangu-finetune.io/v1alpha1
kind: PanguService
metadata: {name: small}
spec:
  image: none
  workspace: {claimName: work}
  model: runs/r/checkpoints
  precision: fp32
  apiKeys: {secretName: keys}
"""


def test_the_rendered_pod_serves_with_the_keys_of_its_secret(workspace, tmp_path):
    objects = {each["kind"]: each for each in render_service(parse(SERVICE)[0])}
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    config = yaml.safe_load(objects["ConfigMap"]["data"]["config.yaml"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"port": 0}))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "team-a").write_text(KEY)
    places = {
        f"{names.CONFIG_MOUNT}/{names.CONFIG_KEY}": tmp_path / "config.yaml",
        names.WORKSPACE_MOUNT: workspace,
        names.API_KEYS_MOUNT: tmp_path / "keys",
        names.TERMINATION_PATH: tmp_path / "last-word",
        names.HOME_MOUNT: tmp_path,
    }
    environment = {
        each["name"]: str(places.get(each["value"], each["value"])) for each in container["env"]
    }
    assert container["command"] == ["python", "-m", "pangu_core.entry.serve"]
    with running(tmp_path, [], environment) as service:
        answer = service.client().completions.create(model="small", prompt="a", max_tokens=3)
        assert answer.usage.completion_tokens == 3
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert service.get(container[probe]["httpGet"]["path"])[0] == 200
        assert names.WAITING_METRIC in str(service.get("/metrics"))
