"""From a job or service to manifests. The only module that knows the template engine.

Templates hold shape, Python holds logic. Every value goes through one filter, ``to_yaml``, so that
no text a user writes can change the shape of a manifest.
"""

from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2

from k8s import names
from k8s.context import claim_context, stage_context
from k8s.helper import HelperContext
from k8s.notice import notice_config, notice_context
from k8s.service_context import service_context
from k8s.serving import serve_config
from k8s.spec import PanguJob, PanguService
from k8s.stages import Stage, find, plan
from k8s.text import one_line, pretty
from pangu_core import __version__
from pangu_core.loading import parse_yaml

Manifest = dict[str, Any]
STORE_IMAGE: Final = f"pangu-controller:{__version__}"
_TEMPLATES: Final = Path(__file__).parent / "templates"


def render(each: PanguJob | PanguService) -> list[Manifest]:
    """All manifests of an object of a job file."""
    return render_job(each) if isinstance(each, PanguJob) else render_service(each)


def render_job(job: PanguJob, *, store_image: str = STORE_IMAGE) -> list[Manifest]:
    """All manifests of a job: its claim where one is to be made, and each stage's first attempt."""
    manifests = render_claim(job)
    for stage in plan(job):
        manifests += render_stage(job, stage.name, store_image=store_image)
    return manifests


def render_claim(job: PanguJob) -> list[Manifest]:
    """The workspace's claim, where the job asks for one to be made."""
    claim = claim_context(job)
    return [] if claim is None else [_render("workspace_claim", vars(claim))]


def render_stage(
    job: PanguJob, name: str, attempt: int = 1, *, store_image: str = STORE_IMAGE
) -> list[Manifest]:
    """The manifests of one attempt of one stage, in the order in which they are created.

    Raises:
        ConfigError: the job has no such stage.
    """
    stage = find(job, name)
    context = vars(
        stage_context(
            stage,
            attempt=attempt,
            config_text=pretty(stage.config(attempt).dump()),
            store_image=store_image,
        )
    )
    return [_render(template, context) for template in _templates_of(stage)]


def render_notice(job: PanguJob, number: int, body: str, *, image: str) -> list[Manifest]:
    """The manifests of the call about a job's end, in the order in which they are created."""
    text = pretty(notice_config(job, number, body).dump())
    context = vars(notice_context(job, number, config_text=text, image=image))
    return [_render(template, context) for template in ("config_map", "notify_job")]


def render_helper_pod(context: HelperContext) -> Manifest:
    """The manifest of a pod that works on a workspace for ``pangu cp``."""
    return _render("helper_pod", vars(context))


def render_clean_up(context: HelperContext) -> Manifest:
    """The manifest of a Job that deletes what a job wrote."""
    return _render("clean_up_job", vars(context))


def render_service(service: PanguService) -> list[Manifest]:
    """All manifests of a service, in the order in which they are applied."""
    text = pretty(serve_config(service).dump())
    context = vars(service_context(service, config_text=text))
    scale = service.spec.autoscale
    templates = ["config_map", "service", "deployment", "disruption_budget"]
    if scale:
        templates.append("scaled_object" if scale.prometheus else "autoscaler")
    return [_render(f"service_{template}", context) for template in templates]


def _templates_of(stage: Stage) -> tuple[str, ...]:
    if stage.is_training:
        return ("config_map", "store_service", "store_deployment", "pytorch_job")
    return ("config_map", f"{stage.name}_job")


def _render(template: str, context: Manifest) -> Manifest:
    text = _environment().get_template(f"{template}.yaml.j2").render(context)
    manifest: Manifest = parse_yaml(text, template)[0]
    return manifest


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(  # noqa: S701 - YAML, not HTML; to_yaml does the escaping
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["to_yaml"] = _to_yaml
    environment.globals["names"] = names
    return environment


def _to_yaml(value: Any) -> str:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, with the variable's name
    return _scalar(value) if isinstance(value, str | int | float) else one_line(value)


@lru_cache(maxsize=4_096, typed=True)
def _scalar(value: str | float) -> str:
    """Names and labels stand in every manifest of a job, many times over."""
    return one_line(value)
