"""The files to deploy with: valid, and in agreement with the settings and with one another."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from recommender.core.settings import setting_fields
from tests.support import PROJECT

KUBERNETES = sorted((PROJECT / "deploy/kubernetes").rglob("*.yaml"))


def text_of(name: str) -> str:
    return (PROJECT / name).read_text("utf-8")


def documents(*paths: Path) -> list[dict[str, Any]]:
    return [d for path in paths for d in yaml.safe_load_all(path.read_text("utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(*KUBERNETES) if document["kind"] == kind]


def test_kubernetes_accepts_every_document() -> None:
    checked = documents(*KUBERNETES)
    kinds = {document["kind"] for document in checked}
    assert kinds >= {"Deployment", "CronJob", "PodDisruptionBudget", "PersistentVolumeClaim"}
    for document in checked:
        kubernetes_validate.validate(document, "1.34", strict=True)
    broken = {**of_kind("Deployment")[0], "spec": {"replicas": "one"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.34", strict=True)


def test_pods_run_as_the_image_does_and_are_selected_by_their_labels() -> None:
    dockerfile = text_of("Dockerfile")
    (user,) = re.findall(r"^USER (\d+):\1$", dockerfile, re.MULTILINE)
    (folder,) = re.findall(r"^ENV WORK_DIR=(\S+)$", dockerfile, re.MULTILINE)
    (deployment,), (job,) = of_kind("Deployment"), of_kind("CronJob")
    template = deployment["spec"]["template"]
    for pod in (template["spec"], job["spec"]["jobTemplate"]["spec"]["template"]["spec"]):
        context, (container,) = pod["securityContext"], pod["containers"]
        assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
        (mount,) = container["volumeMounts"]
        assert mount["mountPath"] == folder
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    (service,), (budget,) = of_kind("Service"), of_kind("PodDisruptionBudget")
    labels = template["metadata"]["labels"]
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels


def test_the_variables_are_settings_and_the_jobs_replace_the_schedule() -> None:
    (secret,), maps = of_kind("Secret"), of_kind("ConfigMap")
    names = {map_["metadata"]["name"] for map_ in (*maps, secret)}
    assert names == {"recommender", "recommender-schedule"}
    schedule = {"metadata": {"name": "recommender-schedule"}, "data": {"TRAIN_INTERVAL_HOURS": "0"}}
    assert [map_ for map_ in maps if schedule.items() <= map_.items()]
    (container,) = of_kind("Deployment")[0]["spec"]["template"]["spec"]["containers"]
    read = [each["configMapRef"] for each in container["envFrom"] if "configMapRef" in each]
    assert read == [{"name": "recommender"}, {"name": "recommender-schedule", "optional": True}]
    for variables in (secret["stringData"], *(map_["data"] for map_ in maps)):
        assert variables.keys() <= setting_fields().keys()


def test_compose_names_files_services_and_settings_that_exist() -> None:
    (compose,) = documents(PROJECT / "compose.yaml")
    services = compose["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {"recommender", "mongo"}
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        # Compose copies the text of a config into the container, which read_only forbids.
        assert service["read_only"] != ("configs" in service)
        assert service.get("depends_on", {}).keys() <= services.keys()
        assert {c["source"] for c in service.get("configs", ())} <= compose["configs"].keys()
        sources = {volume.partition(":")[0] for volume in service["volumes"]}
        assert {s for s in sources if not s.startswith("./deploy/")} <= compose["volumes"].keys()
    assert services["recommender"]["environment"].keys() <= setting_fields().keys()
    for config in compose["configs"].values():
        assert yaml.safe_load(config["content"])


def test_the_lock_has_a_hash_for_every_requirement_and_names_no_index() -> None:
    lock = text_of("requirements.lock")
    pins = re.findall(r"^([a-z0-9-]+)==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9-]+==", lock, re.MULTILINE))
    assert "://" not in lock
    assert not re.search(r"^--(extra-)?index", lock, re.MULTILINE)
    required = re.findall(r"^([a-z0-9-]+)>", text_of("requirements.txt"), re.MULTILINE)
    assert set(required) <= set(pins)
