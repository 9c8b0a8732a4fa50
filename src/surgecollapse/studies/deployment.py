"""Deployment: sparse rows, whole channels cut out, and 8 bits; accuracy, bytes and speed after each step."""

from __future__ import annotations

import io
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.attaching.attach import attach
from surgecollapse.compare.paired_statistics import mean_interval
from surgecollapse.controller.options import Readings, Target
from surgecollapse.lab.energy import EnergyCounters
from surgecollapse.studies.page import grouped, interval, paired_difference
from surgecollapse.studies.registry import Figure, Rows, Settings, Study, Table, study
from surgecollapse.torch_utils.threads import torch_threads

_BATCH = 64
"""Images of a timed pass."""
_TRAINED = 32
"""Images of a training step."""
_THREADS, _BATCHES = (1, 2), (1, _BATCH)
"""Threads and images at which forms for devices are timed."""


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2015, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def build(net: str, width: float = 1.0) -> nn.Sequential:
    """``residual``: a stem and three blocks of 16, 32 and 64 channels; ``plain``: convolutions of 32, 64 and 64.

    ``perceptron`` has two hidden layers of 1,024 units.
    """
    if net == "perceptron":
        units = max(1, round(width * 1024))
        layers = [nn.Linear(64, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 10)]
        return nn.Sequential(nn.Flatten(), *layers)
    a, b, c = (max(1, round(width * n)) for n in ((16, 32, 64) if net == "residual" else (32, 64, 64)))
    if net == "residual":
        body: list[nn.Module] = [*_convolution(1, a), _Block(a, a, 1), _Block(a, b, 2), _Block(b, c, 2)]
    else:
        body = [*_convolution(1, a), *_convolution(a, b), nn.MaxPool2d(2), *_convolution(b, c)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def runs(quick: bool) -> list[Settings]:
    """Seeds outermost, so that every method has as many; the residual net first."""
    if quick:
        base = {"net": "plain", "steps": 5, "forms": "compact", "seed": 0}
        listed = {**base, "net": "perceptron", "forms": "rows", **_SINGLE, "threads": 1}
        return [{**base, "method": "dense"}, {**base, **_unit("layer", 0.5, "held")}, listed]
    speeds: list[Settings] = [
        {"method": "speed", "net": "residual", "width": width, "side": side, "sparsity": sparsity}
        for width, side in ((1, 8), (4, 8), (4, 16))
        for sparsity in (0.3, 0.5, 0.7)
    ]
    trained = [config for net, seeds in (("residual", 5), ("plain", 10)) for config in _trained(net, seeds)]
    wide: list[Settings] = [
        {"net": "residual", "scale": 2, "steps": 300, "seed": seed, "forms": "compact", **method}
        for seed in range(10)
        for method in (
            {"method": "dense"},
            *(_unit("layer", sparsity, "held") for sparsity in (0.5, 0.6, 0.7)),
            {"method": "small_dense", "width": 0.5},
        )
    ]
    rows: list[Settings] = [
        {
            "net": "perceptron",
            "steps": 300,
            "seed": seed,
            "forms": "rows",
            **_SINGLE,
            "sparsity": sparsity,
            "threads": threads,
        }
        for threads in _THREADS
        for seed in range(5)
        for sparsity in (0.9, 0.95)
    ]
    return [*trained[:12], *speeds, *wide[:5], *rows[:2], *wide[5:], *rows[2:10], *trained[12:], *rows[10:]]


def _trained(net: str, seeds: int) -> list[Settings]:
    return [
        {"net": net, "steps": 300, "seed": seed, "forms": "compact", **method}
        for seed in range(seeds)
        for method in _methods(seed if net == "residual" else None)
    ]


_SINGLE = {"method": "single", "allocation": "global", "sparsity": 0.9, "norms": "free", "policy": "gmp"}


def _unit(allocation: str, sparsity: float, norms: str, policy: str = "gmp") -> dict[str, Any]:
    return {"method": "unit", "allocation": allocation, "sparsity": sparsity, "norms": norms, "policy": policy}


def _methods(seed: int | None) -> list[dict[str, Any]]:
    forms = {"forms": "all"} if seed is not None and seed < 3 else {}
    return [
        {"method": "dense"},
        {**_unit("layer", 0.5, "held"), **forms},
        _unit("global", 0.9, "free"),
        {"method": "small_dense", "width": 0.5},
        _unit("layer", 0.9, "held"),
        {"method": "small_dense", "width": 0.2},
        _unit("layer", 0.7, "held"),
        _unit("layer", 0.5, "free"),
        {"method": "small_dense", "width": 0.7},
        _unit("global", 0.5, "free"),
        _unit("layer", 0.5, "free", "cyclic_pruning"),
        _SINGLE,
    ]


def measure(config: Settings) -> Mapping[str, Any]:
    """Train, cut, export, and time against the dense net of full width."""
    if config["method"] == "speed":
        return _speed_of_width(config)
    from surgecollapse.export import compact_model, save_sparse
    from surgecollapse.lab.data.images import digits

    data = digits(config["seed"], True)
    model = _train(config, data)
    accuracy = _accuracy(model, data.x_test, data.y_test)
    images = data.x_validation[:_BATCH]
    smaller = compact_model(model, images)
    torch.manual_seed(0)
    dense = build(config["net"], config.get("scale", 1)).eval()
    with tempfile.TemporaryDirectory() as folder:
        sparse_bytes = save_sparse(model, Path(folder) / "net.safetensors").bytes
        found: dict[str, Any] = {
            "accuracy": accuracy,
            "accuracy_compact": _accuracy(smaller.model, data.x_test, data.y_test),
            "channels": _channels(model),
            "multiplications": smaller.multiplications[1] / smaller.multiplications[0] * _share(config, images),
            "bytes": _file(smaller.model) / _file(dense),
            "bytes_sparse": sparse_bytes / _file(dense),
            **_timed(partial(dense, images), partial(smaller.model, images)),
        }
        if config["forms"] == "all":
            found |= _onnx(dense, smaller.model, data, Path(folder))
        if config["forms"] == "rows":
            found["devices"] = _devices(dense, model, smaller.model, data, Path(folder), config["threads"])
    return found


@torch.inference_mode()
def _speed_of_width(config: Settings) -> dict[str, float]:
    """Speed of an untrained net with channels closed evenly, and of a narrower one, over the dense net."""
    from surgecollapse.export import compact_model
    from surgecollapse.export.measure import interleaved_ratios
    from surgecollapse.functional.patterns import parse_pattern
    from surgecollapse.functional.structured import collapse_tiles

    width, sparsity = config["width"], config["sparsity"]
    torch.manual_seed(0)
    dense, model, small = (build(config["net"], w).eval() for w in (width, width, width * (1 - sparsity)))
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 4}
    live = round((1 - sparsity) * sum(p.numel() for p in weights.values()))
    masks = collapse_tiles({n: p.abs() for n, p in weights.items()}, live, parse_pattern("unit"), allocation="layer")
    for name, parameter in weights.items():
        parameter.mul_(masks[name])
    close_norms(model)
    images = torch.randn(max(1, _BATCH // width**2), 1, config["side"], config["side"])
    smaller = compact_model(model, images)
    return {
        "multiplications": smaller.multiplications[1] / smaller.multiplications[0],
        "speedup": statistics.median(interleaved_ratios(lambda: dense(images), lambda: smaller.model(images), 15)),
        "speedup_small_dense": statistics.median(interleaved_ratios(lambda: dense(images), lambda: small(images), 15)),
    }


def _train(config: Settings, data: Any) -> nn.Module:
    torch.manual_seed(config["seed"])
    model = build(config["net"], config.get("scale", 1) * config.get("width", 1.0))
    steps = config["steps"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    controller = None
    if "sparsity" in config:
        pattern = "unit" if config["method"] == "unit" else None
        target = Target(config["sparsity"], pattern=pattern, allocation=config["allocation"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what this study measures
            controller = attach(
                model, optimizer, target, steps, policy=config["policy"], readings=Readings(every=max(1, steps // 40))
            )
    draws = torch.Generator().manual_seed(1000 + config["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(steps):
            rows = torch.randint(len(data.x_train), (_TRAINED,), generator=draws)
            optimizer.zero_grad()
            loss: Any = F.cross_entropy(model(data.x_train[rows]), data.y_train[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            if config.get("norms") == "held":
                close_norms(model)
        if controller is not None:
            controller.finalize()
            controller.detach()
        if config.get("norms") == "held":
            close_norms(model)
    return model.eval()


@torch.no_grad()
def close_norms(model: nn.Module) -> None:
    """Set scale and shift of a batch norm to zero for the channels whose convolution before it is closed.

    The shift of a closed channel is a constant that the next layer reads. Where that layer pads with zeros, the
    constant cannot go into a bias, and the channel cannot be cut out.
    """
    for parent in model.modules():
        children = list(parent.children())
        for conv, norm in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                open_ = (conv.weight.flatten(1) != 0).any(1)
                norm.weight.mul_(open_)
                norm.bias.mul_(open_)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).double().mean())


def _channels(model: nn.Module) -> list[list[int]]:
    """Open and all output channels of each convolution."""
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    return [[int((weight.flatten(1) != 0).any(1).sum()), len(weight)] for weight in weights]


def _share(config: Settings, images: Tensor) -> float:
    """Multiplications of a narrower net over those of the net of full width."""
    from surgecollapse.export import compact_model

    if "width" not in config:
        return 1.0
    scale = config.get("scale", 1)
    whole, narrow = (compact_model(build(config["net"], scale * w).eval(), images) for w in (1.0, config["width"]))
    return narrow.multiplications[0] / whole.multiplications[0]


def _file(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


@torch.inference_mode()
def _timed(dense: Callable[[], object], other: Callable[[], object]) -> dict[str, Any]:
    """Medians of a pass: the dense net's time over the other's, milliseconds, and millijoules where a counter is."""
    from surgecollapse.export.measure import interleaved_seconds

    seconds = interleaved_seconds(dense, other, 15)
    joules = EnergyCounters().joules(other)
    return {
        "speedup": statistics.median(one / two for one, two in seconds),
        "milliseconds": 1000 * statistics.median(two for _, two in seconds),
        **({} if joules is None else {"millijoules": 1000 * joules}),
    }


@torch.inference_mode()
def _devices(
    dense: nn.Module, model: nn.Module, smaller: nn.Module, data: Any, folder: Path, threads: int
) -> dict[str, Any]:
    """Accuracy, bytes and speed of each form, by images, over the dense net of the same runtime."""
    from surgecollapse.export import save_csr, to_csr

    x, y, whole = data.x_test, data.y_test, _file(dense)
    rows = to_csr(model, x[:_BATCH], rows=_BATCHES).model
    sessions, sizes = _sessions({"dense": dense, "smaller": smaller}, data, folder, threads)
    found: dict[str, dict[str, Any]] = {
        "csr": {"bytes": save_csr(rows, folder / "rows.safetensors").bytes / whole, "accuracy": _accuracy(rows, x, y)},
        "compact": {"bytes": _file(smaller) / whole, "accuracy": _accuracy(smaller, x, y)},
    }
    for form, name in _NAMES.items():
        found[form] = {"bytes": sizes[name] / whole, "accuracy": _right(sessions[name](x.numpy()), y)}
    found["trained"] = {"bytes": 1.0, "accuracy": _accuracy(model, x, y)}
    for facts in found.values():
        facts["passes"] = {}
    with torch_threads(threads):
        for batch in _BATCHES:
            some = x[:batch]
            for form, other in {"trained": model, "csr": rows, "compact": smaller}.items():
                found[form]["passes"][str(batch)] = _timed(partial(dense, some), partial(other, some))
            for form, name in _NAMES.items():
                turns = (partial(sessions[which], some.numpy()) for which in ("dense", name))
                found[form]["passes"][str(batch)] = _timed(*turns)
    return found


_NAMES = {"onnx": "smaller", "onnx_int8": "smaller_int8"}
"""Forms of the smaller net in onnxruntime, and what their files are called."""


def _right(logits: Any, y: Tensor) -> float:
    return float((torch.from_numpy(logits).argmax(1) == y).double().mean())


def _sessions(
    models: Mapping[str, nn.Module], data: Any, folder: Path, threads: int = 1
) -> tuple[dict[str, Callable[[Any], Any]], dict[str, int]]:
    """Each model in onnxruntime, in 32 and in 8 bits (name and name_int8): a function of arrays; bytes of the files."""
    from surgecollapse.export import export_onnx, quantize_onnx
    from surgecollapse.export.onnx import onnxruntime

    images = data.x_train[: 4 * _BATCH]
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    sessions: dict[str, Callable[[Any], Any]] = {}
    sizes: dict[str, int] = {}
    for name, model in models.items():
        file = export_onnx(model, images[:2], folder / f"{name}.onnx")
        small = quantize_onnx(file.path, folder / f"{name}-int8.onnx", list(images.split(_BATCH)))
        for form, path, size in ((name, file.path, file.bytes), (f"{name}_int8", small.path, small.bytes)):
            session = onnxruntime().InferenceSession(path, options, providers=["CPUExecutionProvider"])
            sizes[form] = size
            sessions[form] = partial(_answer, session)
    return sessions, sizes


def _answer(session: Any, x: Any) -> Any:
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def _onnx(dense: nn.Module, smaller: nn.Module, data: Any, folder: Path) -> dict[str, Any]:
    """Accuracy, bytes and speed in onnxruntime, in 32 and 8 bits, against the dense net in 32 bits there."""
    sessions, sizes = _sessions({"dense": dense, "smaller": smaller}, data, folder)
    batch = data.x_train[:_BATCH].numpy()
    right = {name: _right(sessions[name](data.x_test.numpy()), data.y_test) for name in _NAMES.values()}
    return {
        "onnx": {
            form: {
                "accuracy": right.get(form),
                "bytes": sizes[form] / sizes["dense"],
                **_timed(partial(sessions["dense"], batch), partial(sessions[form], batch)),
            }
            for form in ("smaller", "dense_int8", "smaller_int8")
        }
    }


def _label(config: Mapping[str, Any]) -> str:
    if config["method"] == "small_dense":
        return f"dense, width × {config['width']:g}"
    if config["method"] == "dense":
        return "dense"
    what = "channels" if config["method"] == "unit" else "single weights"
    kind = {"layer": "even", "global": "one threshold"}[config["allocation"]]
    norms = ", norms held" if config["norms"] == "held" else ""
    return f"{what}, {kind}{norms}, {config['policy']}, {config['sparsity']:.0%}"


def tables(rows: Rows) -> list[Table]:
    """One table a net, the way to 8 bits, forms for devices, and speed over width."""
    timed = [row for row in rows if row["config"]["method"] == "speed"]
    devices = [row for row in rows if "devices" in row]
    cut = [row for row in rows if row["config"]["method"] != "speed" and "devices" not in row]
    nets = [_net_table(key, group) for key, group in grouped(cut, "net", "scale").items()]
    return [*nets, *_integer_table(cut), *_device_table(devices), *_width_table(timed)]


def _name(net: str, scale: int | None) -> str:
    return f"{net} net" + (f" of {scale} × the width" if scale else "")


def _net_table(key: tuple[Any, ...], rows: Rows) -> Table:
    dense = [row for row in rows if row["config"]["method"] == "dense"]
    lines = []
    for _, group in sorted(
        grouped(rows, "method", "allocation", "norms", "policy", "sparsity", "width").items(),
        key=lambda g: str(g[0]),
    ):
        least = min(min(open_ for open_, _ in row["channels"]) for row in group)
        lines.append(
            [
                _label(group[0]["config"]),
                interval([row["accuracy"] for row in group], 1, 100),
                paired_difference(group, dense, "accuracy", digits=1, scale=100),
                str(least),
                f"{statistics.fmean(row['multiplications'] for row in group):.2f}",
                f"{statistics.fmean(row['bytes'] for row in group):.2f}",
                f"{statistics.median(row['milliseconds'] for row in group):.2f}",
                f"{statistics.median(row['speedup'] for row in group):.2f}",
                _energy(group),
                str(len(group)),
            ]
        )
    headings = [
        "method",
        "test accuracy, %",
        "minus dense",
        "fewest channels",
        "multiplications",
        "bytes",
        "ms a pass",
        "speed-up",
        "mJ a pass",
        "seeds",
    ]
    note = (
        "After `compact_model`. Multiplications and bytes are shares of the dense net's. Milliseconds are of processor "
        f"time, one thread, batch {_BATCH}, median. Speed-up: the dense net's, timed in turn, over this one's. Energy: "
        "of the processor, – without a counter. Fewest channels: of any convolution, in any run."
    )
    return Table(title=f"Digits, {_name(*key)}", headings=headings, lines=lines, note=note)


def _energy(passes: Sequence[Mapping[str, Any]]) -> str:
    """Median of the millijoules of a pass."""
    found = [timed["millijoules"] for timed in passes if "millijoules" in timed]
    return f"{statistics.median(found):.3g}" if found else "–"


_FORMS = {
    "trained": "as trained",
    "csr": "sparse rows (CSR)",
    "compact": "units cut out",
    "onnx": "onnxruntime",
    "onnx_int8": "onnxruntime, 8 bits",
}


def _device_table(rows: Rows) -> list[Table]:
    """Forms of the perceptron by threads and images."""
    if not rows:
        return []
    lines = []
    for (sparsity,), group in grouped(rows, "sparsity").items():
        least = min(row["config"]["threads"] for row in group)
        once = [row for row in group if row["config"]["threads"] == least]  # the same nets are trained for each number
        seeds = str(len({row["config"]["seed"] for row in group}))
        for form, title in _FORMS.items():
            found = [row["devices"][form] for row in once]
            right = interval([facts["accuracy"] for facts in found], 1, 100)
            size = f"{statistics.fmean(facts['bytes'] for facts in found):.2f}"
            speeds = [_device_speed(group, form, threads, batch) for threads in _THREADS for batch in _BATCHES]
            energy = _energy([row["devices"][form]["passes"][str(_BATCH)] for row in once])
            lines.append([f"{sparsity:.0%}", title, right, size, *speeds, energy, seeds])
    timed = [f"{threads} thread{'s' * (threads > 1)}, batch {batch}" for threads in _THREADS for batch in _BATCHES]
    note = (
        "Perceptron 64-1024-1024-10 on digits, single weights pruned by `gmp`. Bytes are shares of the dense net's "
        "file. Milliseconds of a pass are medians, and × those of the dense net over them, in the same runtime on as "
        "many threads. They are of processor time on one thread, of wall time on two. Energy: one thread, as above. "
        "`to_csr` chooses the layers on one thread."
    )
    headings = ["zeros", "form", "test accuracy, %", "bytes", *timed, f"mJ, batch {_BATCH}", "seeds"]
    return [Table(title="Perceptron on one and two threads", headings=headings, lines=lines, note=note)]


def _device_speed(rows: Rows, form: str, threads: int, batch: int) -> str:
    passes = [row["devices"][form]["passes"][str(batch)] for row in rows if row["config"]["threads"] == threads]
    if not passes:
        return "–"
    milliseconds, speed = (statistics.median(timed[key] for timed in passes) for key in ("milliseconds", "speedup"))
    return f"{milliseconds:.3g} ms, {speed:.2f}×"


def _width_table(rows: Rows) -> list[Table]:
    if not rows:
        return []
    lines = [
        [
            f"{'–'.join(str(round(config['width'] * n)) for n in (16, 32, 64))}",
            f"{config['side']} × {config['side']}",
            f"{config['sparsity']:.0%}",
            f"{row['multiplications']:.2f}",
            f"{row['speedup']:.2f}",
            f"{row['speedup_small_dense']:.2f}",
        ]
        for row in rows
        if (config := row["config"])
    ]
    headings = ["channels", "image", "closed", "multiplications", "speed-up", "speed-up of a narrower net"]
    note = "Untrained residual nets, channels closed evenly, norms held. The narrower net has as many channels open."
    return [Table(title="Speed over width", headings=headings, lines=lines, note=note)]


def _integer_table(rows: Rows) -> list[Table]:
    lines = []
    for group in grouped([row for row in rows if "onnx" in row], "net", "method").values():
        config = group[0]["config"]
        name = f"{config['net']}: {_label(config)}"
        titles = {"smaller": "32 bits", "smaller_int8": "8 bits", "dense_int8": "8 bits, the dense net"}
        for form, title in titles.items():
            values = [row["onnx"][form] for row in group]
            known = [value["accuracy"] for value in values if value["accuracy"] is not None]
            right = interval(known, 1, 100) if known else "–"
            speed, taken = (statistics.median(value[key] for value in values) for key in ("speedup", "milliseconds"))
            size = statistics.fmean(value["bytes"] for value in values)
            lines.append(
                [name, title, right, f"{size:.2f}", f"{taken:.2f}", f"{speed:.2f}", _energy(values), str(len(group))]
            )
    if not lines:
        return []
    headings = ["net", "onnxruntime", "test accuracy, %", "bytes", "ms a pass", "speed-up", "mJ a pass", "seeds"]
    note = (
        "Against the dense net's 32-bit file in onnxruntime, one thread, and batch 64. 8 bits: static, calibrated on "
        "256 training images. The dense net is not trained, and was timed alone."
    )
    return [Table(title="To 8 bits", headings=headings, lines=lines, note=note)]


def plot(rows: Rows) -> Figure:
    """Accuracy over the share of multiplications, with 95% intervals where there are several seeds."""
    import matplotlib.pyplot as plt

    cut = [row for row in rows if row["config"]["method"] != "speed" and "devices" not in row]
    nets = list(grouped(cut, "net", "scale").items())
    figure, axes = plt.subplots(1, len(nets), figsize=(4 * len(nets), 3), squeeze=False)
    marks = {
        "dense": "k*",
        "small_dense": "ks",
        "layer, held": "o",
        "layer, free": "v",
        "global, free": "x",
        "single": "^",
    }
    for axis, (key, of_net) in zip(axes[0], nets, strict=True):
        seen: dict[str, list[tuple[float, float, float]]] = {}
        for group in grouped(of_net, "method", "allocation", "norms", "policy", "sparsity", "width").values():
            config = group[0]["config"]
            kind = f"{config['allocation']}, {config['norms']}" if config["method"] == "unit" else config["method"]
            accuracy = mean_interval([100 * row["accuracy"] for row in group])
            share = statistics.fmean(row["multiplications"] for row in group)
            seen.setdefault(kind, []).append((share, accuracy.mean, accuracy.half or 0.0))
        names = {
            "layer, held": "channels, even, norms held",
            "layer, free": "channels, even",
            "global, free": "channels, one threshold",
            "single": "single weights",
        }
        for kind, points in seen.items():
            name = names.get(kind, kind.replace("_", " "))
            shares, means, halves = zip(*points, strict=True)
            axis.errorbar(shares, means, halves, fmt=marks[kind], label=name, alpha=0.8, elinewidth=0.8, capsize=2)
        axis.set(title=f"digits, {_name(*key)}", xlabel="multiplications, share of dense", ylabel="test accuracy, %")
        axis.legend(fontsize=6.5)
        axis.grid(alpha=0.2)
    figure.tight_layout()
    return figure


_SETTING = """
Digits of scikit-learn (1,797 images), two networks with batch norm: *residual* (a stem and three blocks of 16, 32 and
64 channels) and *plain* (three convolutions of 32, 64 and 64). A residual net of twice the width is run, too, and a
perceptron 64-1024-1024-10 for sparse rows. AdamW, learning rate 3e-3, cosine, 300 steps of 32. `pattern="unit"` with
zeros spread evenly over layers (`allocation="layer"`) or by one threshold (`"global"`), by gradual pruning (`gmp`)
and the default policy. *Norms held*: scale and shift of the batch norm behind a closed channel are kept at zero, so
that the channel leaves no constant behind. The control is a dense network of smaller width. Seeds are paired.
"""

LIMITS: Sequence[str] = (
    "Handwritten digits of 8 × 8 pixels, 300 steps: convolutional networks of up to 320,000 weights, and a perceptron "
    "of 1.1 million. Speed over width is of untrained networks, one timing each.",
    "Nothing was tuned for any method. Speed is that of one processor. Residual networks of the first width have five "
    "seeds, forms in 8 bits three.",
    "Energy of a pass is read where the system shows a counter; the machine of these rows shows none.",
)

_CONCLUSION = """
**Yes: half of the channels closed, 2.3 times as fast, 0.6 ± 0.3 points lost** on the plain network, over ten seeds.
On a residual network of twice the width, closing 70% of the channels gave 1.9 times at 0.0 ± 0.3 points. **A dense
network of half the width does as well**: 2.3 times at −0.7 ± 0.4, and 2.1 times at 0.0 ± 0.4. Pruning channels buys
no speed that a narrower network does not have.

- **Safe settings** are `allocation="layer"` and norms held as below: 50% at 16 to 64 channels, 70% at 32 to 128. On
  the plain network 70% lost 2.9 ± 0.7 points.
- **Nothing is safe at 90% of the channels.** One threshold (`pattern="unit"` alone) ranks the channels of all layers
  by their mean |w|. Wide layers have small weights, so they are closed first, down to between one and four channels.
  That lost 38.7 ± 9.7 points on the plain network, and `attach` warns. Even allocation lost more there, 55.5 ± 3.2,
  with a tenth of the multiplications.
- **Closing 90% of the channels is not removing 90% of the cost.** It leaves 1 to 3% of the multiplications and lost
  18 to 56 points. A dense network of a fifth of the width, with 4% of the multiplications, lost 5 to 8.
- **A closed channel leaves a constant** where a batch norm follows and the next convolution pads with zeros. Holding
  scale and shift at zero leaves 0.39 of the multiplications of the residual network at 50%, instead of 0.68. It cost
  no accuracy.
- **Twice as fast needs width or no shortcuts.** On the residual network of 16 to 64 channels, time hardly follows
  multiplications: 1.2 times at 50%. Of untrained networks of 64 to 256 channels, closing 50% gives 1.5 to 1.6 times
  the speed, 70% gives 1.9 to 2.3 times. A narrower network was faster each time.
- **8 bits** halve the file once more at no loss of accuracy (three seeds). In onnxruntime, cutting the residual
  network gained nothing: 0.94 times in 32 bits. In 8 bits the cut network is 1.2 times as fast as the dense one in 32
  bits, and the dense one 1.6 times.
- **Sparse rows pay on a perceptron in PyTorch.** At 90% zeros CSR takes 0.13 of the bytes. On one thread it is 1.7
  times as fast as the dense network with one image, and 2.8 times with 64. At 95% it is 2.2 and 4.4 times. On two
  threads it gains 2.0 to 3.7 times.
- **8 bits in onnxruntime are faster than sparse rows everywhere here**, and take 0.24 of the bytes at 90%. Nearly all
  of it is the 8 bits: cutting units out gains 1.1 times on one thread, and loses on two.

Single weights at 90% lose at most 0.4 points here, and do not make convolutions faster.
"""

study(
    Study(
        name="deployment",
        title="Deployment: channels cut out, 8 bits",
        question="Can pruning whole channels make convolutions twice as fast for at most one point of accuracy?",
        setting=_SETTING,
        runs=runs,
        measure=measure,
        tables=tables,
        plot=plot,
        conclusion=_CONCLUSION,
        limits=LIMITS,
    )
)
