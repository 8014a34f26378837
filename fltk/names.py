"""The names a user types, in one place that imports nothing heavy (shell completion and `--help` read it)."""

from __future__ import annotations

DATASETS = (
    "digits",
    "mnist",
    "fmnist",
    "kmnist",
    "emnist",
    "cifar10",
    "cifar100",
    "svhn",
    "usps",
    "femnist",
    "hapt",
    "digit-domains",
    "cifar10-jpeg",
)

SCHEMES = (
    "iid",
    "dirichlet",
    "dirichlet-capped",
    "extended-dirichlet",
    "pathological",
    "shards",
    "quantity",
    "natural",
    "rotated",
    "permuted-labels",
)

# Data set and scheme of a partition that comes from a folder of another program and has no name of its own here.
IMPORTED = "pfllib"

MODELS = ("mlp", "cnn", "lenet5", "resnet8", "resnet8-bn", "cnn1d")

# name -> "module:class"; one literal that can be grepped. A method is imported when it is used.
METHODS = {
    "local": "fltk.methods.local:Local",
    "oracle": "fltk.methods.oracle:Oracle",
    "fedavg": "fltk.methods.fedavg:FedAvg",
    "fedavg-ft": "fltk.methods.fedavg_ft:FedAvgFT",
    "fedprox": "fltk.methods.fedprox:FedProx",
    "scaffold": "fltk.methods.scaffold:Scaffold",
    "fedper": "fltk.methods.fedper:FedPer",
    "ditto": "fltk.methods.ditto:Ditto",
    "fedamp": "fltk.methods.fedamp:FedAMP",
    "heurfedamp": "fltk.methods.heurfedamp:HeurFedAMP",
    "ifca": "fltk.methods.ifca:IFCA",
    "cfl": "fltk.methods.cfl:CFL",
    "cluster-kmeans": "fltk.methods.cluster_kmeans:ClusterKMeans",
    "cluster-gmm": "fltk.methods.cluster_gmm:ClusterGMM",
    "attn": "fltk.methods.attn:Attn",
}

DEPLOYMENTS = ("vote", "mixed", "ft1", "ft5", "head10", "client")
DEPLOY_PRIORS = ("0", "1", "auto")
DEPLOY_WEIGHTS = ("1", "0.75", "0.5", "0.25", "auto")
