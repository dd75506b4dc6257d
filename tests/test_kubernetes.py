"""deploy/kubernetes, rendered by kubectl, against the schemas, the image and the program."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import kubernetes_validate
import pytest
from command_lines import misread
from kubernetes_schemas import complaint
from manifests import ROOT, SECRETS, SHIPPED, Document, Pod, Rendered, own_folder, render

from mlflow_server.ray_node import HEAD_PORT, LEAVE_SECONDS

OLDEST = "1.33"
"""Of Kubernetes: docs/clusters.md and jobs/study.yaml name it."""
NEWEST = kubernetes_validate.latest_version().rpartition(".")[0]
WAYS = ["jobs", "jobs gpu", "kuberay", "kuberay gpu loader"]
"""What to train by, and components: each what `ours` may say."""
SIGTERM_SECONDS = 30
"""How long `run` may take to end."""
Ways = dict[str, Rendered]
VARIABLE = re.compile(r"\$\((\w+)\)")
ENTRYPOINT = (ROOT / "mlflow_server" / "worker_entrypoint").read_text()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    folder = tmp_path_factory.mktemp("kubernetes")
    return {way: render(own_folder(folder / way, *way.split())) for way in WAYS}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, rendered: Ways) -> Rendered:
    return rendered[request.param]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_and_kuberay_take_every_document(way: Rendered, version: str) -> None:
    assert len(way.documents) >= 7
    for document in way.documents:
        assert complaint(document, version) is None, document["kind"]


def fields(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every field whose name a schema gives, all the way down."""
    items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
    for key, inner in items:
        if isinstance(value, dict):
            yield (*path, key)
        if isinstance(inner, dict | list) and key not in FREE:
            yield from fields(inner, (*path, key))


FREE = ("labels", "annotations", "limits", "requests", "matchLabels", "data")
"""Their keys are anybody's choice."""


@pytest.mark.parametrize(
    "kind", ["Job", "RayCluster", "Pod", "NetworkPolicy", "PersistentVolumeClaim"]
)
def test_a_misspelled_field_is_refused(kind: str, rendered: Ways) -> None:
    document = next(iter(rendered["kuberay gpu loader"].of_kind(kind).values()))
    misspelled = [
        path for path in fields(document) if path != ("apiVersion",) and path != ("kind",)
    ]
    assert len(misspelled) >= 5
    for path in misspelled:
        assert complaint(with_typo(document, path), OLDEST) is not None, path


def with_typo(document: Document, path: tuple[str | int, ...]) -> Document:
    changed = deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]  # type: ignore[index]
    place[f"{path[-1]}x"] = place.pop(path[-1])
    return changed


def test_a_value_of_a_wrong_type_is_refused(rendered: Ways) -> None:
    cluster = deepcopy(rendered["kuberay"].of_kind("RayCluster")["galaxy-mlflow"])
    cluster["spec"]["workerGroupSpecs"][0]["replicas"] = "two"
    assert "workerGroupSpecs.0.replicas" in str(complaint(cluster, OLDEST))


def test_what_a_pod_names_is_there(way: Rendered) -> None:
    for pod in way.pods:
        assert pod.spec["serviceAccountName"] in way.of_kind("ServiceAccount")
        assert pod.claims <= set(way.of_kind("PersistentVolumeClaim"))
        for volume in pod.spec["volumes"]:
            assert volume.get("configMap", {"name": None})["name"] in {
                None,
                *way.of_kind("ConfigMap"),
            }
            assert volume.get("secret", {"secretName": None})["secretName"] in {
                None,
                *way.of_kind("Secret"),
            }
        mounted = {mount["name"] for mount in pod.container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod.spec["volumes"]}


def test_secrets_are_files_at_the_places_where_the_image_looks(way: Rendered) -> None:
    assert set(way.of_kind("Secret")["galaxy-mlflow"]["data"]) == set(SECRETS)
    for pod in way.programs:
        mounts = [m for m in pod.container["volumeMounts"] if m["name"] == "secrets"]
        assert {(m["subPath"], m["mountPath"]) for m in mounts} <= {
            (name, f"/run/secrets/{name}") for name in SECRETS
        }
        assert "/run/secrets/worker_password" in {m["mountPath"] for m in mounts}
        assert "/run/secrets/worker_password" in ENTRYPOINT
        given = environment(way, pod)
        if "RAY_AUTH_TOKEN_PATH" in given:
            assert given["RAY_AUTH_TOKEN_PATH"] in {m["mountPath"] for m in mounts}


def environment(way: Rendered, pod: Pod) -> dict[str, str]:
    """Return the variables of a pod's container, in the order in which they are set."""
    found: dict[str, str] = {}
    for source in pod.container.get("envFrom", []):
        found |= way.of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in pod.container["env"]:
        value = variable.get("value", "0")
        assert all(name in found for name in VARIABLE.findall(value)), variable
        found[variable["name"]] = VARIABLE.sub(lambda m: found[m[1]], value)
    return found


def arguments(way: Rendered, pod: Pod) -> list[str]:
    given = environment(way, pod)
    return [VARIABLE.sub(lambda m: given[m[1]], word) for word in pod.container["args"]]


def test_every_pod_does_what_the_image_can(way: Rendered) -> None:
    others = [pod.container["command"] for pod in way.pods if pod not in way.programs]
    assert others in ([], [["sleep", "infinity"]])
    for pod in way.programs:
        assert "command" not in pod.container
        words = arguments(way, pod)
        if len(words) > 1:
            assert misread(words) is None, words
            continue
        assert f'"${{1:-}}" = {words[0]} ]' in ENTRYPOINT


def test_the_study_is_a_file_of_the_config_map(way: Rendered) -> None:
    study = way.of_kind("ConfigMap")["galaxy-mlflow-settings"]["data"]["STUDY"]
    folder, _, name = study.rpartition("/")
    assert name in way.of_kind("ConfigMap")["galaxy-mlflow-studies"]["data"]
    for pod in way.programs:
        mounts = {m["name"]: m["mountPath"] for m in pod.container["volumeMounts"]}
        assert mounts["studies"] == f"/home/galaxy/{folder}"


def test_settings_are_known_to_the_program() -> None:
    sources = [*(ROOT / "galaxy_mlflow").rglob("*.py"), *(ROOT / "mlflow_server").iterdir()]
    code = "\n".join(file.read_text() for file in sources if file.is_file())
    known = f"{code}\n{(SHIPPED / 'jobs' / 'study.yaml').read_text()}"
    for file in ("base", "example"):
        text = (SHIPPED / file / "settings.env").read_text()
        names = re.findall(r"^(\w+)=", text, re.MULTILINE)
        assert len(names) >= 2
        assert all(re.search(rf"\b{name}\b", known) for name in names)


def test_the_shares_of_a_job_are_its_pods(rendered: Ways) -> None:
    way = rendered["jobs"]
    (pod,) = way.pods
    assert way.job["spec"]["completions"] == int(environment(way, pod)["PARTS"]) == 3
    assert way.job["spec"]["parallelism"] == 3
    shipped = (SHIPPED / "jobs" / "study.yaml").read_text()
    assert re.findall(r"(?:completions: |PARTS, value: \")(\d+)", shipped) == ["4", "4"]
    assert environment(way, pod)["GALAXY_MLFLOW_HOME"] == "/home/galaxy/store/part-0"


def test_one_image_everywhere(way: Rendered) -> None:
    assert {pod.container["image"] for pod in way.pods} == {
        "registry.example.org/galaxies/galaxy-mlflow-worker:0.1.0"
    }


def test_pods_are_restricted_as_kubernetes_means_it(way: Rendered) -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    for pod in way.pods:
        safety = pod.spec["securityContext"]
        assert safety["runAsNonRoot"] is True
        assert (safety["runAsUser"], safety["runAsGroup"]) == tuple(map(int, user))
        assert safety["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod.spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
        assert all("hostPath" not in volume for volume in pod.spec["volumes"])


def test_only_our_own_pods_reach_our_pods(way: Rendered) -> None:
    rule = way.of_kind("NetworkPolicy")["galaxy-mlflow"]["spec"]
    ours = rule["podSelector"]["matchLabels"]
    assert rule["ingress"] == [{"from": [{"podSelector": {"matchLabels": ours}}]}]
    assert all(ours.items() <= pod.labels.items() for pod in way.pods)


def test_gpus_go_to_those_who_train_and_only_where_asked_for(
    rendered: Ways,
) -> None:
    for name, way in rendered.items():
        for pod in way.pods:
            limits = pod.container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(limits)
            wanted = "gpu" in name and pod.trains
            assert limits.get("nvidia.com/gpu", 0) == int(wanted)
            tolerated = [entry["key"] for entry in pod.spec.get("tolerations", [])]
            assert tolerated == (["nvidia.com/gpu"] if wanted else [])


def test_pods_may_take_the_time_that_ending_takes(way: Rendered) -> None:
    for pod in way.programs:
        needed = LEAVE_SECONDS + 10 if arguments(way, pod) == ["node"] else SIGTERM_SECONDS
        assert pod.spec["terminationGracePeriodSeconds"] >= needed


def test_preempted_pods_do_not_count_and_users_errors_end_the_job(way: Rendered) -> None:
    spec = way.job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # the policy needs it
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    codes = {rule["action"]: rule["onExitCodes"] for rule in rules[1:]}
    assert {action: code["values"] for action, code in codes.items()} == {
        "Ignore": [143],
        "FailJob": [2],
    }
    assert {code["containerName"] for code in codes.values()} == {container["name"]}


def test_ray_is_that_of_the_image_and_its_head_is_found(
    rendered: Ways,
) -> None:
    way = rendered["kuberay"]
    ((name, cluster),) = way.of_kind("RayCluster").items()
    pins = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={cluster['spec']['rayVersion']}\n" in pins
    assert cluster["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    for pod in way.programs:
        assert environment(way, pod)["RAY_HEAD"] == f"{name}-head-svc"
    head = next(pod for pod in way.programs if pod.container["name"] == "head")
    assert HEAD_PORT in {port["containerPort"] for port in head.container["ports"]}


def test_nobodys_secret_gets_into_git() -> None:
    for folder in ("ours", "ours/secrets", "example/secrets"):
        path = SHIPPED / folder / "worker_password"
        ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT)
        assert ignored.returncode == 0, path
    listed = subprocess.run(
        ["git", "ls-files", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = listed.stdout.splitlines()
    assert "deploy/kubernetes/base/kustomization.yaml" in kept
    assert not [file for file in kept if "secrets/" in file or "/ours/" in file]
    shipped = "\n".join(Path(ROOT / file).read_text() for file in kept)
    assert "stringData" not in shipped
    assert "kind: Secret" not in shipped
