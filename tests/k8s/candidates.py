"""Specs of jobs as people may write them: of many parts, right and wrong ones, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

Spec = dict[str, Any]
COUNTS = st.sampled_from([1, 2, 3, 4, 6, 8])
PATHS = st.sampled_from(
    [
        "a",
        "corpus/*.txt",
        "a//b",
        "./a",
        "a..b/c",
        "..a",
        "a/..",
        "..",
        "/a",
        "s3://b/k",
        "s3://b",
        "s3://b/../k",
        "https://h/a",
        "pvc://c/p",
        "ftp://h/a",
        "a:/b",
        "中文/语料",
    ]
) | st.just("")
ENDPOINTS = st.sampled_from(["http://minio:9000", "minio"])
NAMES = st.sampled_from(["a", "data", "work-2"])
QUANTITIES = st.sampled_from([0, 4, "1Gi", "500m", "1.5", "2Ki", "lots", "1gi"])


def some(required: dict[str, st.SearchStrategy] | None = None, **optional: st.SearchStrategy):
    """A mapping of the required and some of the optional fields."""
    return st.fixed_dictionaries(required or {}, optional=optional)


def few(items: st.SearchStrategy):
    return st.lists(items, max_size=2)


VOLUMES = some(
    {"name": st.sampled_from(["a", "data", "work-2", "shm"])},
    emptyDir=some(medium=st.sampled_from(["", "Memory"]), sizeLimit=QUANTITIES),
    configMap=some({"name": NAMES}),
)
MOUNTS = some(
    {"name": NAMES, "mountPath": st.sampled_from(["/data", "/tmp", "/tmp/", "/tmp/x", "/", "x"])},
    readOnly=st.booleans(),
)
VARIABLES = some(
    {"name": st.sampled_from(["A", "_b9", "PETS", "PET_X", "HOME", "HOMES", "PANGU_X", "9"])},
    value=st.sampled_from(["", "x"]),
    valueFrom=some(secretKeyRef=some({"name": NAMES, "key": NAMES})),
)
KEYS = st.sampled_from(
    [
        "a",
        "team.io/x",
        "app.kubernetes.io/name",
        "app.kubernetes.io/names",
        "/x",
        "pangu-finetune.io/x",
        "pangu-finetune.io",
        "pangu-finetune.io.x/y",
        "training.kubeflow.org/x",
    ]
) | st.just("a b")
PODS = some(
    resources=some(limits=st.dictionaries(NAMES, QUANTITIES, max_size=2)),
    nodeSelector=st.sampled_from([{}, {"a": "b"}, {"kubernetes.io/hostname": "n1"}]),
    tolerations=few(some(key=NAMES, operator=st.sampled_from(["Exists", "Equal"]))),
    affinity=st.just({"podAffinity": {"anything": [1, {"a": None}]}}),
    env=few(VARIABLES),
    volumes=few(VOLUMES),
    volumeMounts=few(MOUNTS),
    labels=st.dictionaries(KEYS, st.sampled_from(["", "x", "a b"]), max_size=1),
    annotations=st.dictionaries(KEYS, st.sampled_from(["", "x", "a b"]), max_size=1),
    sharedMemory=QUANTITIES,
    gracePeriod=st.sampled_from([9, 10, 300]),
)
TRAIN = some(
    {"steps": COUNTS, "globalBatchSize": COUNTS},
    microBatchSize=st.sampled_from([0, 1, "auto", "Auto"]),
    sequenceLength=st.sampled_from([64, 65, 256, 257, 1024, 1025]),
    tensorParallel=COUNTS,
    nodes=some(min=COUNTS, max=COUNTS, processesPerNode=COUNTS),
    precision=st.sampled_from(["bf16", "fp32"]),
    optimizer=some(learningRate=st.sampled_from([1e-4, 1, 0]), warmup=st.sampled_from([0, 0.5, 1])),
    checkpoint=some(everySteps=COUNTS, copyTo=PATHS),
    attentionDropout=st.sampled_from([0, 0.0, 0.5, 1.0]),
    lora=some(rank=COUNTS),
)
MODELS = some(
    preset=st.sampled_from(["tiny", "350M", "2.6B", "13B"]),
    numLayers=COUNTS,
    hiddenSize=st.sampled_from([8, 96]),
    numHeads=COUNTS,
    sequenceLength=st.sampled_from([64, 1024]),
    activation=st.just("gelu_erf"),
) | some(
    {"preset": st.sampled_from(["tiny", "350M", "13B"])}, **{"from": PATHS}, endpoint=ENDPOINTS
)
SPLITS = st.sampled_from(
    ["949,50,1", "1", "0.5,.5", "1e2, 3", "0,0", "1,2,3,4", "a", "", "1,,2", "-1,2"]
)
DATA = some(
    {"input": PATHS | few(some({"path": PATHS}, weight=COUNTS))},
    split=SPLITS,
    format=st.sampled_from(["text", "jsonl", "chat"]),
    validation=PATHS,
)
WORKSPACES = some(
    claimName=NAMES,
    size=QUANTITIES,
    accessMode=st.sampled_from(["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]),
)
AUTOSCALES = some(
    {"max": COUNTS}, min=COUNTS, waiting=COUNTS, cpuPercent=COUNTS, prometheus=ENDPOINTS
)
BLOCKS = {
    "workspace": WORKSPACES,
    "model": MODELS,
    "data": DATA,
    "train": TRAIN,
    "tokenizer": PATHS,
    "split": some(always=st.booleans(), tensorParallel=COUNTS),
    "export": some(to=PATHS, format=st.sampled_from(["pangu", "npy"]), endpoint=ENDPOINTS),
    "serve": some(
        replicas=st.integers(-1, 3), tensorParallel=COUNTS, pods=PODS, autoscale=AUTOSCALES
    ),
    "suspend": st.booleans(),
    "limits": some(pendingSeconds=COUNTS, gpuHours=st.sampled_from([0, 1, 2.5])),
    "pods": PODS,
    "podsByStage": some(train=PODS, merge=PODS),
}
GOOD = {
    "image": "pangu-core:0.1.0",
    "workspace": {"claimName": "work"},
    "model": {"preset": "350M", "from": "weights/old"},
    "data": {"input": "corpus/*.txt"},
    "train": {"steps": 10, "globalBatchSize": 8},
}


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A good spec with a few of its blocks drawn anew."""
    changed = draw(st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=3, unique=True))
    return GOOD | {block: draw(BLOCKS[block]) for block in changed}
