"""Data, models and losses of a user's own: every form that a factory may return, and every mistake in one line."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.data.dataset import Data
from surgecollapse.lab.data.own import as_data
from surgecollapse.lab.data.streamed import WINDOW, BadDataError, BadSamples, Part, StreamedData, epoch_order
from surgecollapse.lab.references import found_part, parts_of
from surgecollapse.lab.training.feed import StreamFeed, feed_of, in_range, part_batches
from surgecollapse.lab.training.outputs import as_rows, right_share
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.sampler import Addresses
from surgecollapse.lab.training.trainer import Training

N, HELD = 20, 11
X = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3)
Y = torch.arange(N) % 4
XH, YH = -X[:HELD], Y[:HELD]


class Numbered(Dataset):
    num_classes = 4

    def __init__(self, x=X, y=Y, noise=0.0, broken=()):
        self.x, self.y, self.noise, self.broken = x, y, noise, broken

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        if row in self.broken:
            raise OSError(f"row {row} is torn")
        drawn = torch.randn(()) + random.random() + np.random.rand()  # noqa: NPY002
        return self.x[row] + self.noise * drawn, int(self.y[row])


class Streaming(IterableDataset):
    def __init__(self, x, y):
        self.rows = list(zip(x, y, strict=True))

    def __iter__(self):
        return iter(self.rows)


class Columns:
    """As a split of Hugging Face's datasets: rows are dictionaries, features say the classes."""

    class Label:
        num_classes = 4

    features: Mapping = {"pixels": object(), "label": Label()}

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return {"pixels": self.x[row].tolist(), "label": int(self.y[row])}


def made(value, **options) -> Data:
    return as_data(value, "/project/mine.py:data", 0, BadSamples(), **options)


HELD_ROWS = {(*row.tolist(), label) for row, label in zip(XH, YH.tolist(), strict=True)}
FORMS = {
    "tensors": ((X, Y), (XH, YH)),
    "arrays": ((X.numpy(), Y.numpy()), (XH.double().numpy(), YH.numpy())),
    "tensor data sets": (TensorDataset(X, Y), TensorDataset(XH, YH)),
    "data sets": (Numbered(), Numbered(XH, YH)),
    "subsets": (Subset(Numbered(), range(N)), Subset(Numbered(XH, YH), range(HELD))),
    "loaders": (DataLoader(Numbered(), batch_size=3), DataLoader(Numbered(XH, YH))),
    "loaders of streams": (DataLoader(Streaming(X, Y), batch_size=3), DataLoader(Streaming(XH, YH), batch_size=2)),
    "streams": (Streaming(X, Y), Streaming(XH, YH)),
    "iterables": (zip(X, Y.tolist(), strict=True), [(x, y) for x, y in zip(XH, YH.tolist(), strict=True)]),
    "splits": {"train": Columns(X, Y), "validation": Columns(XH, YH)},
    "train and test": {"train": (X, Y), "test": (XH, YH)},
}


def rows_of(data, part):
    if isinstance(data, StreamedData):
        batches = list(part_batches(data, part, 4))
    else:
        batches = [(getattr(data, f"x_{part}"), getattr(data, f"y_{part}"))]
    return [(*row.tolist(), int(label)) for x, y in batches for row, label in zip(x, y, strict=True)]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_samples_and_halves_the_held_out_ones(form):
    if form == "iterables":
        FORMS[form] = (list(zip(X, Y.tolist(), strict=True)), FORMS[form][1])
    data = made(FORMS[form])
    assert data.train_size == N
    assert rows_of(data, "train") == [(*row.tolist(), int(label)) for row, label in zip(X, Y, strict=True)]
    validation, test = rows_of(data, "validation"), rows_of(data, "test")
    assert {len(validation), len(test)} == {5, 6}
    assert set(validation) | set(test) == HELD_ROWS
    assert set(validation) & set(test) == set()
    assert data.num_classes == 4
    assert data.kind == "vector"
    assert data.described()["samples"] == {"train": N, "validation": len(validation), "test": len(test)}


def test_three_parts_are_taken_as_they_are():
    data = made(((X, Y), (XH[:4], YH[:4]), (XH[4:], YH[4:])))
    assert torch.equal(data.x_validation, XH[:4])
    assert torch.equal(data.x_test, XH[4:])


def test_a_loaders_own_collate_function_makes_the_batches():
    def doubled(items):
        return torch.stack([2 * x for x, _ in items]), torch.tensor([y for _, y in items])

    data = made((DataLoader(Numbered(), collate_fn=doubled), Numbered(XH, YH)))
    (x, y), *_ = part_batches(data, "train", 5)
    assert torch.equal(x, 2 * X[:5])
    assert torch.equal(y, Y[:5])


@pytest.mark.parametrize(
    ("x", "y", "kind"),
    [
        (torch.zeros(N, 2, 5), Y, "series"),
        (torch.zeros(N, 1, 5, 5), Y, "image"),
        (torch.zeros(N, 1, 2, 5, 5), Y, "other"),
        (torch.zeros(N, 7, dtype=torch.int64), Y, "tokens"),
        (torch.zeros(N, 7, dtype=torch.int32), torch.zeros(N, 7, dtype=torch.int64), "text"),
    ],
)
def test_the_kind_follows_from_type_and_shape(x, y, kind):
    assert made(((x, y), (x, y))).kind == kind


def test_numbers_are_not_classes():
    data = made(((X, Y.double()), (XH, YH.double())))
    assert data.y_train.dtype == torch.float32
    assert data.num_classes == 0


BAD = {
    "nothing": (None, ["gave a NoneType", "expected a surgecollapse.lab.data.dataset.Data"]),
    "one part": (((X, Y),), ["gave a tuple of 1"]),
    "a word": (("train", "test"), ["got a str", "torch Dataset or DataLoader"]),
    "no training split": ({"test": (X, Y)}, ["gave the splits test", "expected train"]),
    "unequal lengths": (((X, Y[:3]), (XH, YH)), ["inputs of shape (20, 3) and labels of shape (3,)"]),
    "an empty part": (([], (XH, YH)), ["train is empty"]),
    "an empty data set": ((Numbered(X[:0], Y[:0]), Numbered(XH, YH)), ["the train part is empty"]),
    "too few held out": (((X, Y), (XH[:1], YH[:1])), ["1 held-out samples", "at least 2"]),
    "negative labels": (((X, Y - 1), (XH, YH)), ["label -1 in train (sample 0)", "classes from 0"]),
    "samples that are no pairs": (([X[0], X[1], X[2]], (XH, YH)), ["sample 0 is a Tensor of shape (3,)", "a pair"]),
    "other shapes": (((X, Y), (XH[:, :2], YH)), ["inputs of validation", "(2,)", "(3,)"]),
    "ragged": (([(torch.zeros(2), 0), (torch.zeros(3), 1)], (XH, YH)), ["different shapes (2,) and (3,)"]),
    "words": (([("good film", 1)], (XH, YH)), ["input is a str", "expected a tensor"]),
    "too many columns": (([{"a": 1, "b": 2, "label": 0}], (XH, YH)), ["the columns a, b, label", "one input"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_one_line_with_what_came_and_what_was_expected(case):
    value, words = BAD[case]
    with pytest.raises(ConfigError) as caught:
        made(value)
    assert "\n" not in str(caught.value)
    assert "mine.py" in str(caught.value) or "mine" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# the order, and what is random in reading


def test_an_epoch_has_every_sample_once_in_its_own_order():
    orders = [epoch_order(50, epoch, 3, None).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == epoch_order(50, 0, 3, None).tolist() != epoch_order(50, 0, 4, None).tolist()


def test_samples_of_one_file_are_read_in_one_window():
    sizes = [3] * (2 * WINDOW)
    order = epoch_order(sum(sizes), 0, 0, sizes).tolist()
    assert sorted(order) == list(range(sum(sizes)))
    first = {row // 3 for row in order[: 3 * WINDOW]}
    assert len(first) == WINDOW
    assert not first & {row // 3 for row in order[3 * WINDOW :]}


def test_addresses_go_on_anywhere():
    through = Addresses(7, 3, seed=1)
    seen = [next(through) for _ in range(8)]
    for stop in range(8):
        first = Addresses(7, 3, seed=1)
        for _ in range(stop):
            first.skip()
        again = Addresses(7, 3, seed=1)
        again.go_to(first.epoch, first.position)
        assert [next(again) for _ in range(8 - stop)] == seen[stop:]


def feed(workers, noise=1.0, broken=(), limit=0):
    data = as_data(
        (Numbered(noise=noise, broken=broken), Numbered(XH, YH)), "m.py:data", 0, BadSamples(limit), workers=workers
    )
    return data, StreamFeed(data, 6, 5, device=torch.device("cpu"), dtype=torch.float32)


def batches(of, count):
    return [next(of) for _ in range(count)]


def same(one, other):
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_what_is_random_in_a_sample_depends_on_the_run_and_not_on_the_workers():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    (_, alone), (_, helped) = feed(0), feed(2)
    first, second = batches(alone, 8), batches(helped, 8)
    assert same(first, second)
    assert not torch.equal(first[0][0].sort(0).values, first[4][0].sort(0).values)  # epochs differ
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_goes_on_bitwise_though_it_had_read_ahead(workers):
    _, whole = feed(workers)
    expected = batches(whole, 9)
    _, first = feed(workers)
    batches(first, 5)
    _, again = feed(workers)
    again.load_state_dict(first.state_dict())
    assert same(batches(again, 4), expected[5:])


def test_a_feed_of_another_size_is_refused():
    _, one = feed(0)
    with pytest.raises(ValueError, match="7 samples, the data has 20"):
        one.load_state_dict({**one.state_dict(), "size": 7})


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_samples_are_named_counted_and_skipped_up_to_the_limit(workers):
    data, one = feed(workers, broken=(3, 4), limit=2)
    labels = torch.cat([y for _, y in batches(one, 4)])
    assert len(labels) == N - 2
    assert data.bad.named == {f"sample {row} of the train data": f"row {row} is torn" for row in (3, 4)}
    _, strict = feed(workers, broken=(3, 4, 5), limit=10)
    strict._data.bad.limit = 2
    with pytest.raises(BadDataError, match=r"3 samples are missing or damaged, max_bad allows 2: .*row \d is torn"):
        batches(strict, 4)


def test_no_damage_is_allowed_unless_it_is_said():
    with pytest.raises(BadDataError, match="1 sample is missing or damaged, max_bad allows 0"):
        feed(0, broken=(3,))


def test_labels_out_of_range_are_named():
    with pytest.raises(ConfigError, match="mine: label 9 is out of range: expected 0 to 3"):
        in_range(torch.tensor([0, 9]), 4, "mine")


def test_all_samples_in_one_batch_need_memory():
    config = make_config(task="mine.py:data", batch_size=0)
    with pytest.raises(ConfigError, match="batch_size = 0"):
        feed_of(config, feed(0)[0])


# outputs and labels


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 3, 4, 5)])
def test_classes_lie_on_the_last_or_the_second_axis(shape):
    labels = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    hot = nn.functional.one_hot(labels, 5).float()
    logits = hot if shape[-1] == 5 else hot.movedim(-1, 1)
    assert logits.shape == shape
    rows, flat = as_rows(logits, labels)
    assert torch.equal(rows.argmax(-1), flat)
    assert right_share(logits, labels) == 1.0
    assert nn.functional.cross_entropy(rows, flat) == nn.functional.cross_entropy(hot.movedim(-1, 1), labels)


# references


def project(tmp_path, text):
    path = tmp_path / "project.py"
    path.write_text(text)
    return path


def test_a_project_file_is_read_without_being_run(tmp_path):
    path = project(tmp_path, "raise SystemExit\ndef data(): ...\nclass net: ...\nfrom x import loss\n")
    assert parts_of(path) == {"task": f"{path}:data", "model": f"{path}:net", "loss": f"{path}:loss"}


@pytest.mark.parametrize(
    ("text", "words"),
    [("def net(): ...\nmodel = net", "defines model and net"), ("def data(:", "line 1"), (None, "cannot read")],
)
def test_a_project_file_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "missing.py" if text is None else project(tmp_path, text)
    with pytest.raises(ConfigError, match=words):
        parts_of(path)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("{}:nets", "has no 'nets': expected one of its names net"),
        ("{}/none.py:net", "no file"),
        ("no_such_package.x:net", "no module 'no_such_package.x'"),
        ("os:system", "standard library"),
        ("net", "expected file.py:name"),
    ],
)
def test_a_reference_that_leads_nowhere_is_one_line(tmp_path, reference, words):
    path = project(tmp_path, "def net(): ...\n")
    with pytest.raises(ConfigError, match=words):
        found_part(reference.format(path), "model")


PROJECT = """
import torch
from torch import nn
def data(classes=4):
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    return (x, torch.arange(40) % classes), (x[:9], torch.arange(9) % classes)
def floats():
    x = torch.ones(9, 3)
    return (x, x[:, 0]), (x, x[:, 0])
def net(width=8, inputs=3, outputs=4):
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))
def given(data):
    return nn.Linear(data.input_shape[0], data.num_classes)
class Pair(nn.Module):
    def __init__(self):
        super().__init__(); self.a = nn.Linear(3, 4)
    def forward(self, x): return self.a(x), x
def number(): return 3
ready = nn.Linear(3, 4)
def frozen(): return nn.Linear(3, 4).requires_grad_(False)
def each(output, target): return nn.functional.cross_entropy(output, target, reduction="none")
def smooth(output, target): return nn.functional.cross_entropy(output, target, label_smoothing=0.1)
Loss = nn.CrossEntropyLoss
def halves(output, target): return output @ target
"""


def training(path, tmp_path, data="data", model="net", loss=None, **keys):
    values = {
        "task": f"{path}:{data}",
        "model": f"{path}:{model}" if model != "mlp" else model,
        "steps": 2,
        "policy": "none",
        **keys,
    }
    values |= {} if loss is None else {"loss": loss if ":" not in loss else f"{path}{loss}"}
    return Training(make_config(**values), tmp_path / "checkpoints", Silent())


@pytest.mark.parametrize("model", ["net", "given", "ready", "mlp"])
@pytest.mark.parametrize("loss", [None, ":smooth", ":Loss", "stablemax"])
def test_models_and_losses_of_every_form_train(tmp_path, model, loss):
    run = training(project(tmp_path, PROJECT), tmp_path, model=model, loss=loss)
    x, y = next(run.feed)
    assert run.loss(run.model(x), y).requires_grad
    run.attached.remove()


def test_a_module_of_the_project_is_copied_and_never_trained_itself(tmp_path):
    path = project(tmp_path, PROJECT)
    run = training(path, tmp_path, model="ready")
    assert run.model is not found_part(f"{path}:ready", "model")
    run.attached.remove()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_options": {"inputs": 5}}, r"cannot read inputs \(2, 3\) of torch.float32: mat1 and mat2"),
        ({"model_options": {"outputs": 3}}, "gives 3 logits, and the labels of project go up to 3: expected 4 logits"),
        ({"model_options": {"witdh": 3}}, "unexpected keyword argument 'witdh'; it takes width, inputs, outputs"),
        ({"model": "Pair"}, "gives a tuple .*expected a tensor"),
        ({"model": "number"}, "gave a int: expected a torch.nn.Module"),
        ({"model": "frozen"}, "no parameter that is trained"),
        ({"model": "ready", "model_options": {"a": 1}}, "takes no model_options"),
        ({"data": "floats", "model_options": {"outputs": 2}}, r"outputs \(2, 2\) for labels \(2,\) that are numbers"),
        ({"data": "floats", "model_options": {"outputs": 1}, "loss": "cross_entropy"}, "is for classes"),
        ({"loss": ":each"}, r"gave a tensor \(2,\) of torch.float32: expected a tensor with one number"),
        ({"loss": ":halves"}, "loss project failed on outputs"),
        ({"loss": ":ready"}, "failed on outputs"),
        ({"data": "number"}, "gave a int: expected"),
        ({"data_options": {"klasses": 2}}, "unexpected keyword argument 'klasses'; it takes classes"),
    ],
)
def test_parts_that_do_not_fit_are_one_line(tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words) as caught:
        training(project(tmp_path, PROJECT), tmp_path, **keys)
    assert "\n" not in str(caught.value)


def test_the_loss_follows_from_the_labels(tmp_path):
    path = project(tmp_path, PROJECT)
    run = training(path, tmp_path, data="floats", model_options={"outputs": 1})
    outputs, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])
    assert run.loss(outputs, labels).item() == 2.0
    run.attached.remove()


class Offset(Dataset):
    """Samples of one source, each with its number; `plain` is without the offset that is drawn."""

    num_classes = 2

    def __init__(self, first, count, moved=True):
        self.first, self.count, self.moved = first, count, moved

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([float(self.first + index), float(self.moved)]), index % 2

    @property
    def plain(self):
        return Offset(self.first, self.count, moved=False)


def mixed_feed(workers=0):
    train = ConcatDataset([Offset(0, 12), Offset(12, 8)])
    data = as_data((train, Offset(0, 6)), "m.py:data", 0, BadSamples(0), workers=workers)
    return data, StreamFeed(data, 5, 3, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("workers", [0, 2])
def test_sources_come_as_often_as_their_weights_say_and_a_resume_is_bitwise(workers):
    data, one = mixed_feed(workers)
    assert {name: list(rows) for name, rows in data.train.sources.items()} == {
        "0": list(range(12)),
        "1": list(range(12, 20)),
    }
    batches(one, 2)
    one.weigh_all([(data.train.sources["0"], 0.0), (data.train.sources["1"], 2.0)])
    epoch = torch.cat([x[:, 0] for x, _ in batches(one, 4)])  # 16 samples in batches of 5, 5, 5, 1
    assert torch.bincount(epoch.long(), minlength=20).tolist() == [0] * 12 + [2] * 8
    state = one.state_dict()
    expected = batches(one, 5)
    _, again = mixed_feed(workers)
    again.load_state_dict(state)
    assert same(batches(again, 5), expected)
    one.weigh(range(20), 1.0)
    assert sorted(torch.cat([x[:, 0] for x, _ in batches(one, 4)]).tolist()) == list(range(20))
    assert "weights" not in one.state_dict()


def test_a_weight_between_whole_numbers_holds_on_average():
    addresses, epochs = Addresses(20, 20, seed=2), 400
    addresses.weigh([((3,), 1.5), ((4,), 0.25)])
    counts = torch.zeros(20)
    while addresses.epoch <= epochs:
        counts += torch.bincount(torch.tensor([row for _, row in next(addresses)]), minlength=20)
    for row, weight, spread in ((3, 1.5, 0.5), (4, 0.25, 0.1875**0.5), (5, 1.0, 0.0)):
        assert counts[row] / epochs == pytest.approx(weight, abs=5 * spread / epochs**0.5 + 2 / epochs)


@pytest.mark.parametrize("weights", [[((20,), 0.5)], [(range(20), 0.0)]])
def test_impossible_weights_are_refused_and_change_nothing(weights):
    _, one = mixed_feed()
    batches(one, 2)
    before = str(one.state_dict())
    with pytest.raises(ValueError, match=r"no sample 20: there are 20|no training sample would be left"):
        one.weigh_all(weights)
    assert str(one.state_dict()) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_share_of_the_samples_is_augmented_and_a_resume_is_bitwise(workers):
    data = as_data((Offset(0, 400), Offset(0, 6)), "m.py:data", 0, BadSamples(0), workers=workers)

    def made():
        return StreamFeed(data, 100, 3, device=torch.device("cpu"), dtype=torch.float32)

    one = made()
    assert next(one)[0][:, 1].all()
    assert one.augment(0.25) == 1.0
    state = one.state_dict()
    expected = batches(one, 3)
    share = float(torch.cat([x[:, 1] for x, _ in expected]).mean())
    assert share == pytest.approx(0.25, abs=5 * (0.1875 / 300) ** 0.5)  # five deviations
    again = made()
    again.load_state_dict(state)
    assert same(batches(again, 3), expected)
    assert one.augment(0.0) == 0.25
    assert not next(one)[0][:, 1].any()


def test_data_without_a_plain_form_are_not_augmented():
    _, one = feed(0)
    with pytest.raises(ValueError, match="is not augmented"):
        one.augment(0.5)


def test_sources_are_known_in_a_part_of_the_samples():
    part = Part(mixed_feed()[0].train, torch.tensor([1, 5, 13, 14]))
    assert part.sources == {"0": [0, 1], "1": [2, 3]}
