"""The names a user types, in one place that imports nothing heavy (shell completion and `--help` read it)."""

from __future__ import annotations

from collections.abc import Iterable

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
    "shakespeare",
    "diabetes",
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

# What the names of data sets begin with that a user gives from Python, so that they are never taken for one of fltk's.
OWN = "own:"

# What --channel can do to updates on their way to the server.
CHANNELS = ("grad-drop", "qsgd")

# What the server does with an average (--server-opt).
SERVER_OPTIMISERS = ("avgm", "adagrad", "adam", "yogi")

MODELS = ("mlp", "cnn", "cnn-bn", "lenet5", "resnet8", "resnet8-bn", "cnn1d", "lstm", "gru")
RECURRENT = ("lstm", "gru")  # networks of token sequences

# name -> "module:class"; one literal that can be grepped. A method is imported when it is used.
METHODS = {
    "local": "fltk.methods.local:Local",
    "oracle": "fltk.methods.oracle:Oracle",
    "fedavg": "fltk.methods.fedavg:FedAvg",
    "fedavg-ft": "fltk.methods.fedavg_ft:FedAvgFT",
    "fedavgm": "fltk.methods.fedavgm:FedAvgM",
    "fedadagrad": "fltk.methods.fedadagrad:FedAdagrad",
    "fedadam": "fltk.methods.fedadam:FedAdam",
    "fedyogi": "fltk.methods.fedyogi:FedYogi",
    "moon": "fltk.methods.moon:MOON",
    "fedprox": "fltk.methods.fedprox:FedProx",
    "scaffold": "fltk.methods.scaffold:Scaffold",
    "fedper": "fltk.methods.fedper:FedPer",
    "fedrep": "fltk.methods.fedrep:FedRep",
    "lg-fedavg": "fltk.methods.lg_fedavg:LGFedAvg",
    "fedbn": "fltk.methods.fedbn:FedBN",
    "ditto": "fltk.methods.ditto:Ditto",
    "pfedme": "fltk.methods.pfedme:PFedMe",
    "apfl": "fltk.methods.apfl:APFL",
    "perfedavg": "fltk.methods.perfedavg:PerFedAvg",
    "fedala": "fltk.methods.fedala:FedALA",
    "pfedgraph": "fltk.methods.pfedgraph:PFedGraph",
    "feddf": "fltk.methods.feddf:FedDF",
    "ccvr": "fltk.methods.ccvr:CCVR",
    "fedmd": "fltk.methods.fedmd:FedMD",
    "fedem": "fltk.methods.fedem:FedEM",
    "fedsoft": "fltk.methods.fedsoft:FedSoft",
    "fedamp": "fltk.methods.fedamp:FedAMP",
    "heurfedamp": "fltk.methods.heurfedamp:HeurFedAMP",
    "ifca": "fltk.methods.ifca:IFCA",
    "cfl": "fltk.methods.cfl:CFL",
    "cluster-kmeans": "fltk.methods.cluster_kmeans:ClusterKMeans",
    "cluster-gmm": "fltk.methods.cluster_gmm:ClusterGMM",
    "attn": "fltk.methods.attn:Attn",
}

# As METHODS, for what malicious clients do and what the server does about them.
ATTACKS: dict[str, str] = {
    "random-model": "fltk.attacks.random_model:RandomModel",
    "gaussian-noise": "fltk.attacks.gaussian_noise:GaussianNoise",
    "label-flip": "fltk.attacks.label_flip:LabelFlip",
    "sign-flip": "fltk.attacks.sign_flip:SignFlip",
    "scale": "fltk.attacks.scale:Scale",
    "same-value": "fltk.attacks.same_value:SameValue",
    "zero-gradient": "fltk.attacks.zero_gradient:ZeroGradient",
    "zero-sum": "fltk.attacks.zero_sum:ZeroSum",
    "ipm": "fltk.attacks.ipm:IPM",
    "alie": "fltk.attacks.alie:ALIE",
    "min-max": "fltk.attacks.min_max:MinMax",
    "min-sum": "fltk.attacks.min_sum:MinSum",
    "fang-trim": "fltk.attacks.fang_trim:FangTrim",
    "fang-krum": "fltk.attacks.fang_krum:FangKrum",
    "badnets": "fltk.attacks.badnets:BadNets",
    "dba": "fltk.attacks.dba:DBA",
    "mimic": "fltk.attacks.mimic:Mimic",
}

DEFENCES: dict[str, str] = {
    "median": "fltk.defences.median:Median",
    "trimmed-mean": "fltk.defences.trimmed_mean:TrimmedMean",
    "krum": "fltk.defences.krum:Krum",
    "multi-krum": "fltk.defences.krum:MultiKrum",
    "bulyan": "fltk.defences.bulyan:Bulyan",
    "rfa": "fltk.defences.rfa:RFA",
    "centered-clip": "fltk.defences.centered_clip:CenteredClip",
    "norm-clip": "fltk.defences.norm_clip:NormClip",
    "fltrust": "fltk.defences.fltrust:FLTrust",
    "dnc": "fltk.defences.dnc:DnC",
    "foolsgold": "fltk.defences.foolsgold:FoolsGold",
    "signguard": "fltk.defences.signguard:SignGuard",
    "bucketing": "fltk.defences.bucketing:Bucketing",
    "attention-trust": "fltk.defences.attention_trust:AttentionTrust",
    "dp-fedavg": "fltk.defences.dp_fedavg:DPFedAvg",
}

# Kinds of runs, and the command that makes them.
KINDS = {"train": "fltk train", "attack": "fltk attack", "join": "fltk join-new-client", "bench": "fltk bench"}

DEPLOYMENTS = ("vote", "mixed", "ft1", "ft5", "head10", "own", "client")
DEPLOY_PRIORS = ("0", "1", "auto")
DEPLOY_WEIGHTS = ("1", "0.75", "0.5", "0.25", "auto")

# What other programs and papers call these things, folded as `fold` does it; only for suggestions.
SYNONYMS = {
    "fashionmnist": "fmnist",
    "kuzushijimnist": "kmnist",
    "har": "hapt",
    "dir": "dirichlet",
    "lda": "dirichlet",
    "noniid": "dirichlet",
    "patho": "pathological",
    "exdir": "extended-dirichlet",
    "resnet": "resnet8",
    "resnet18": "resnet8",
    "dnn": "mlp",
    "attention": "attn",
    "standalone": "local",
    "localonly": "local",
    "finetune": "fedavg-ft",
    "maml": "perfedavg",
    "clusteredfl": "cfl",
    "geometricmedian": "rfa",
    "lie": "alie",
    "innerproduct": "ipm",
    "bitflip": "sign-flip",
}


def fold(name: str) -> str:
    """A name without case, hyphens, underscores and spaces: `Per-FedAvg` is perfedavg."""
    return name.casefold().translate(str.maketrans("", "", "-_ "))


def canonical(name: str, known: Iterable[str]) -> str:
    """The known name that is meant, whatever its case and hyphens; `name` itself where there is none."""
    names = list(known)
    if name in names:
        return name
    wanted = fold(name)
    for candidate in names:
        if candidate and fold(candidate) == wanted:
            return candidate
    return name
