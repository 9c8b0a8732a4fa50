"""Files in their true formats, made here: what is read of them, and what is said of missing and damaged ones."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch

from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import make_config
from surgecollapse.lab.data.idx import MissingDataError
from surgecollapse.lab.data.loaders import pictures
from surgecollapse.lab.data.streamed import BadDataError
from surgecollapse.lab.training.feed import feed_of, part_batches
from surgecollapse.lab.training.loading import load_data
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

Image = pytest.importorskip("PIL.Image")
parquet = pytest.importorskip("pyarrow.parquet")
pyarrow = pytest.importorskip("pyarrow")

SIZE = 16
COLORS = {"blue": (20, 40, 230), "red": (230, 30, 20)}


def picture(color, number, form="JPEG"):
    """Encoded, of a color of its own, 24 × (20 + number)."""
    red, green, blue = color
    file = io.BytesIO()
    Image.new("RGB", (24, 20 + number), (red, min(255, green + number), blue)).save(file, form)
    return file.getvalue()


def config(task, folder, **keys):
    small = {} if task.endswith("-files") else {"image_size": SIZE}
    return make_config(task=task, data_dir=folder, steps=8, policy="none", batch_size=4, **{**small, **keys})


def rows(data, part="train"):
    return [(x, y) for xs, ys in part_batches(data, part, 3) for x, y in zip(xs, ys, strict=True)]


@pytest.fixture
def folders(tmp_path):
    for part, count in (("train", 6), ("val", 4)):
        for name, color in COLORS.items():
            place = tmp_path / part / name
            place.mkdir(parents=True)
            for number in range(count):
                form = "PNG" if number % 2 else "JPEG"
                (place / f"{name}_{number}.{form.lower()}").write_bytes(picture(color, number, form))
            (place / "notes.txt").write_text("no picture")
    return tmp_path


def mean_color(x):
    """Red, green and blue in 0 to 255, of a standardized picture."""
    pixels = x * torch.tensor(pictures.DEVIATION)[:, None, None] + torch.tensor(pictures.MEAN)[:, None, None]
    return (255 * pixels).mean((1, 2))


def has_color(x, label):
    """Whether red and blue are those of the class, as near as JPEG keeps them."""
    expected = torch.tensor(list(COLORS.values())[label]).float()
    return torch.allclose(mean_color(x)[[0, 2]], expected[[0, 2]], atol=6)


@pytest.mark.parametrize("augment", [True, False])
def test_image_folders_give_pictures_with_the_class_of_their_folder(folders, augment):
    data = load_data(config("image-folder", folders, augment=augment))
    assert data.num_classes == 2
    assert data.kind == "image"
    assert data.described()["samples"] == {"train": 12, "validation": 4, "test": 4}
    for x, y in rows(data):
        assert x.shape == (3, SIZE, SIZE)
        assert has_color(x, int(y))


def test_only_training_pictures_are_augmented_and_never_the_same_in_two_epochs(tmp_path):
    draws = np.random.default_rng(0)
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(4):
            pixels = draws.integers(0, 255, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / "a" / f"{number}.png")
    settings = config("image-folder", tmp_path)
    data = load_data(settings)
    feed = feed_of(settings, data)
    (first, _), (second, _) = next(feed), next(feed)
    assert not any(torch.equal(one, other) for one in first for other in second)
    plain = load_data(config("image-folder", tmp_path, augment=False))
    for part in ("train", "test"):
        for (one, _), (other, _) in zip(rows(data, part), rows(plain, part), strict=True):
            assert torch.equal(one, other)


def test_the_center_is_what_it_should_be():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 255  # the middle square
    found = mean_color(pictures.centered(Image.fromarray(pixels), 8))
    assert torch.allclose(found, torch.full((3,), 255.0), atol=1e-3)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no picture", "missing"])
def test_damaged_pictures_are_named_and_skipped_within_the_limit(folders, damage):
    path = folders / "train/red/red_2.jpeg"
    content = path.read_bytes()
    data = load_data(config("image-folder", folders, max_bad=1))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-200], "empty": b"", "no picture": b"x" * 400}[damage])
    assert len(rows(data)) == 11
    assert list(data.bad.named) == [str(path)]
    if damage != "missing":
        with pytest.raises(BadDataError, match=r"1 sample is missing or damaged, max_bad allows 0: .*red_2.jpeg"):
            load_data(config("image-folder", folders))


def test_another_class_in_the_held_out_part_is_refused(folders):
    (folders / "val/green").mkdir()
    with pytest.raises(ConfigError, match="classes that the training data lack: green"):
        load_data(config("image-folder", folders))


@pytest.fixture
def shards(tmp_path):
    """Pictures in tar files, two a shard, the label as a class or in JSON."""
    for part, count in (("train", 6), ("val", 4)):
        for shard in range(count // 2):
            with tarfile.open(tmp_path / f"{part}-{shard:04d}.tar", "w") as file:
                for number, (name, color) in enumerate(COLORS.items()):
                    key = f"{name}/{shard:02d}.{number}"
                    label = list(COLORS).index(name)
                    kind, said = ("cls", str(label)) if shard % 2 else ("json", json.dumps({"label": label}))
                    for ending, content in (("jpg", picture(color, shard)), (kind, said.encode())):
                        member = tarfile.TarInfo(f"{key.replace('.', '_')}.{ending}")
                        member.size = len(content)
                        file.addfile(member, io.BytesIO(content))
    return tmp_path


def test_webdataset_shards_give_pictures_and_labels(shards):
    data = load_data(config("webdataset", shards, model="project.py:net", augment=False))
    assert data.train.blocks == [2, 2, 2]
    found = rows(data)
    assert [int(y) for _, y in found] == [0, 1] * 3
    for x, y in found:
        assert has_color(x, int(y))


def test_a_torn_shard_and_a_sample_without_label_are_named(shards):
    torn = shards / "train-0001.tar"
    torn.write_bytes(torn.read_bytes()[:3000])
    with tarfile.open(shards / "train-0009.tar", "w") as file:
        member = tarfile.TarInfo("lonely.jpg")
        member.size = 3
        file.addfile(member, io.BytesIO(b"abc"))
    data = load_data(config("webdataset", shards, model="project.py:net", max_bad=2))
    assert len(data.bad.named) == 2
    assert f"{shards / 'train-0009.tar'}: lonely" in data.bad.named
    assert "torn or no tar file" in data.bad.named[str(torn)]
    with pytest.raises(BadDataError, match="max_bad allows 0"):
        load_data(config("webdataset", shards, model="project.py:net"))


def test_a_key_that_is_there_twice_is_named_and_its_first_sample_is_used(shards):
    path = shards / "train-0009.tar"
    with tarfile.open(path, "w") as file:
        for label in (b"1", b"0", b"0"):
            for name, content in (("same.jpg", picture(COLORS["red"], 0)), ("same.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    data = load_data(config("webdataset", shards, model="project.py:net", augment=False, max_bad=2))
    assert data.bad.named == {
        f"{path}: same.{kind}": "it is there 3 times; the first one is used" for kind in ("jpg", "cls")
    }
    assert data.train.blocks == [2, 2, 2, 1]
    assert int(rows(data)[-1][1]) == 1
    with pytest.raises(BadDataError, match="max_bad allows 0"):
        load_data(config("webdataset", shards, model="project.py:net"))


@pytest.fixture
def tables(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "validation").mkdir()
    for part, count in (("train", 3), ("validation", 2)):
        for shard in range(count):
            images = [{"bytes": picture(color, shard), "path": name} for name, color in COLORS.items()]
            table = pyarrow.table(
                {"image": images, "label": [0, 1], "vector": [[1.0 * shard, 0.0], [1.0 * shard, 1.0]]}
            )
            parquet.write_table(table, tmp_path / part / f"{shard}.parquet", row_group_size=1)
    return tmp_path


def test_parquet_shards_give_pictures_as_hugging_face_stores_them(tables):
    data = load_data(config("parquet", tables, model="project.py:net", augment=False))
    assert data.train.blocks == [1] * 6
    found = rows(data)
    assert [int(y) for _, y in found] == [0, 1] * 3
    for x, y in found:
        assert has_color(x, int(y))


def test_parquet_columns_of_numbers(tables):
    data = load_data(config("parquet", tables, model="project.py:net", input_column="vector"))
    assert [x.tolist() for x, _ in rows(data)] == [[float(shard), float(row)] for shard in range(3) for row in range(2)]
    with pytest.raises(ConfigError, match="no column 'pixels': it has image, label, vector"):
        load_data(config("parquet", tables, model="project.py:net", input_column="pixels"))


def test_a_torn_parquet_file_is_named(tables):
    torn = tables / "train/1.parquet"
    torn.write_bytes(torn.read_bytes()[:100])
    data = load_data(config("parquet", tables, model="project.py:net", input_column="vector", max_bad=1))
    assert len(rows(data)) == 4
    assert list(data.bad.named) == [str(torn)]


@pytest.mark.parametrize("task", ["webdataset", "parquet"])
def test_model_of_the_library_trains_on_shards_whose_classes_are_given(task, shards, tables, tmp_path):
    keys = {"model": "cnn", "widths": (4, 4), "evaluate_every": 8}
    assert train(config(task, tmp_path, classes=2, **keys), tmp_path / "run").status == "complete"
    with pytest.raises(ConfigError, match="must know the number of classes: set classes"):
        train(config(task, tmp_path, **keys), tmp_path / "none")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a", "b"], "a column holds str values: expected numbers"),
        (pyarrow.array([0, 1], pyarrow.timestamp("s")), "a column holds datetime values: expected numbers"),
    ],
)
def test_parquet_column_of_something_else_is_named(tables, values, words):
    parquet.write_table(pyarrow.table({"vector": values, "label": [0, 1]}), tables / "train/0.parquet")
    with pytest.raises(ConfigError, match=words):
        rows(load_data(config("parquet", tables, model="project.py:net", input_column="vector")))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (np.array(["a"]), "it holds <U1 values: expected numbers"),
        (np.ones(3, np.complex64), "it holds complex64 values: expected numbers"),
    ],
)
def test_array_in_a_shard_that_holds_no_numbers_is_a_damaged_sample(tmp_path, content, why):
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}-0.tar", "w") as file:
            for number in range(4):
                array = io.BytesIO()
                np.save(array, content if number == 1 and part == "train" else np.ones(3, np.float32))
                for ending, said in (("npy", array.getvalue()), ("cls", b"1")):
                    member = tarfile.TarInfo(f"{number}.{ending}")
                    member.size = len(said)
                    file.addfile(member, io.BytesIO(said))
    data = load_data(config("webdataset", tmp_path, model="project.py:net", max_bad=1))
    assert len(rows(data)) == 3
    assert data.bad.named == {f"{tmp_path / 'train-0.tar'}: 1": why}


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    for part, count in (("train2017", 5), ("val2017", 4)):
        (tmp_path / part).mkdir()
        images, boxes, captions = [], [], []
        for number in range(count):
            name = f"{number:012d}.jpg"
            (tmp_path / part / name).write_bytes(picture(COLORS["red"], number))
            images.append({"id": number, "file_name": name, "width": 24, "height": 20 + number})
            for k in range(2):
                box = [6 * k, 5, 6 + 6 * k, 10]
                boxes.append({"id": 10 * number + k, "image_id": number, "category_id": (17, 3)[k], "bbox": box,
                              "iscrowd": 0, "area": box[2] * box[3]})  # fmt: skip
                captions.append({"id": 10 * number + k, "image_id": number, "caption": f"Größe {number} {k}"})
            boxes.append({"image_id": number, "category_id": 3, "bbox": [0, 0, 24, 20], "iscrowd": 1})
        categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}]
        for kind, said in (("instances", boxes), ("captions", captions)):
            content = {"images": images, "annotations": said, "categories": categories}
            (tmp_path / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(content))
    return tmp_path


def test_coco_boxes_are_shares_of_the_sides_the_largest_first(coco):
    data = load_data(config("coco-detection", coco, most_objects=4, model="project.py:net"))
    (x, label), *_ = rows(data)
    assert x.shape == (3, SIZE, SIZE)
    expected = torch.tensor(
        [[0, 12 / 24, 10 / 20, 12 / 24, 10 / 20], [1, 3 / 24, 10 / 20, 6 / 24, 10 / 20], [-1] * 5, [-1] * 5]
    )
    assert torch.allclose(label, expected)


def test_a_coco_picture_that_is_not_there_is_named(coco):
    path = coco / "train2017/000000000003.jpg"
    path.unlink()
    data = load_data(config("coco-detection", coco, model="project.py:net", max_bad=1))
    assert len(rows(data)) == 4
    assert data.bad.named == {str(path): "No such file or directory"}


@pytest.mark.parametrize(
    ("where", "number", "key", "value", "words"),
    [
        (
            "annotations",
            0,
            "image_id",
            99,
            r"1 annotation of pictures that are not in it, first annotations\[0\] of image",
        ),
        ("annotations", 2, "image_id", "3", r"annotations\[2\] is .*: expected a table with image_id \(a number\)"),
        ("images", 1, "file_name", None, r"images\[1\] is .*: expected a table with id \(a number\), file_name"),
        ("images", 1, "file_name", "../../secret.jpg", r"images\[1\] lies outside of the folder"),
        ("images", 1, "file_name", "/etc/passwd", r"images\[1\] lies outside of the folder"),
        ("categories", 0, "id", "cat", r"categories\[0\] is"),
        ("categories", None, None, [], "has no categories"),
        ("categories", None, None, [{"id": 3}], "has other categories than|which the file does not have"),
        ("annotations", None, None, {}, "has no list of annotations"),
        (None, None, None, [], "has no list of images and of annotations"),
        (None, None, None, "{", "expected JSON"),
    ],
)
def test_wrong_entry_of_a_coco_file_is_named(coco, where, number, key, value, words):
    path = coco / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    if where is None:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    else:
        if number is None:
            content[where] = value
        else:
            content[where][number][key] = value
        path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=words) as caught:
        load_data(config("coco-detection", coco, model="project.py:net"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "entry", "value", "why"),
    [
        ("instances", "bbox", [1, 2, 3], "an object has the box [1, 2, 3]: expected left, top, width and height"),
        ("instances", "bbox", [1, 2, float("nan"), 4], "an object has the box [1, 2, nan, 4]"),
        ("instances", "bbox", "all", "an object has the box 'all'"),
        ("instances", "category_id", 99, "an object has the category 99, which the file does not have"),
        ("instances", "width", 0, "its width and height in the annotations are 0 and 20"),
        ("captions", "caption", None, "its caption is None: expected a text"),
        ("captions", "caption", 5, "its caption is 5: expected a text"),
    ],
)
def test_damaged_annotation_is_a_damaged_sample(coco, kind, entry, value, why):
    path = coco / f"annotations/{kind}_train2017.json"
    content = json.loads(path.read_text())
    content["images" if entry == "width" else "annotations"][0][entry] = value
    path.write_text(json.dumps(content))
    task = "coco-detection" if kind == "instances" else "coco-captions"
    plain = {"augment": False} if kind == "captions" else {}
    data = load_data(config(task, coco, model="project.py:net", max_bad=1, **plain))
    assert len(rows(data)) == 4
    ((name, found),) = data.bad.named.items()
    assert name == str(coco / "train2017/000000000000.jpg")
    assert found.startswith(why)


def test_boxes_without_area_are_left_out(coco):
    path = coco / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 0, 5]
    path.write_text(json.dumps(content))
    (_, label), *_ = rows(load_data(config("coco-detection", coco, most_objects=4, model="project.py:net")))
    assert (label[:, 0] >= 0).sum() == 1


def test_coco_captions_are_bytes(coco):
    settings = config("coco-captions", coco, text_length=12, model="project.py:net")
    data = load_data(settings)
    texts = [bytes(y[y < 256].tolist()).decode() for _, y in rows(data)]
    assert texts == [f"Größe {number} 0" for number in range(5)]
    assert data.num_classes == 257
    feed = feed_of(settings, data)
    drawn = {bytes(row[row < 256].tolist()).decode()[-1] for _ in range(8) for row in next(feed)[1]}
    assert drawn == {"0", "1"}


def test_text_files_give_bytes_and_the_next_ones(tmp_path):
    text = "Füchse und Hühner. " * 6
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").write_text(text[:60])
    data = load_data(config("text-files", tmp_path, text_length=10))
    raw = text.encode()
    assert data.kind == "text"
    assert data.vocabulary == data.num_classes == 256
    for number, (x, y) in enumerate(rows(data)):
        assert bytes(x.tolist()) == raw[10 * number : 10 * number + 10]
        assert bytes(y.tolist()) == raw[10 * number + 1 : 10 * number + 11]
    assert len(rows(data)) == (len(raw) - 1) // 10


@pytest.mark.parametrize("form", ["bin", "npy"])
def test_token_files_are_mapped(tmp_path, form):
    tokens = np.arange(100, dtype=np.uint16) * 3
    for part, some in (("train", tokens), ("val", tokens[:41])):
        some.tofile(tmp_path / f"{part}.bin") if form == "bin" else np.save(tmp_path / f"{part}.npy", some)
    data = load_data(config("token-files", tmp_path, text_length=8, vocab_size=300))
    found = rows(data)
    assert len(found) == 12
    assert all(torch.equal(y, x + 3) for x, y in found)
    assert found[-1][0].tolist() == tokens[88:96].tolist()
    with pytest.raises(
        ConfigError, match=r"train\.\w+: token 2\d\d at \d+ is out of range: expected 0 to 269; set vocab"
    ):
        rows(load_data(config("token-files", tmp_path, text_length=8, vocab_size=270)))


def test_negative_token_is_named(tmp_path):
    for part in ("train", "val"):
        np.save(tmp_path / f"{part}.npy", np.array([1, 2, -3] * 30))
    with pytest.raises(ConfigError, match=r"token -3 at 2 is out of range: expected 0 to 299"):
        rows(load_data(config("token-files", tmp_path, text_length=8, vocab_size=300)))


def test_class_folder_without_pictures_is_named(folders):
    (folders / "train/green").mkdir()
    with pytest.raises(ConfigError, match=r"train/green has no pictures"):
        load_data(config("image-folder", folders))


@pytest.mark.parametrize(
    ("content", "words"),
    [({"train.bin": b"abc"}, "3 bytes: expected unsigned 16-bit"), ({"train.bin": b"abcd"}, "lower text_length")],
)
def test_token_files_of_another_form_are_named(tmp_path, content, words):
    for name, said in {"val.bin": b"ab" * 200, **content}.items():
        (tmp_path / name).write_bytes(said)
    with pytest.raises(ConfigError, match=words):
        load_data(config("token-files", tmp_path))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("image-folder", "has no folder train"),
        ("webdataset", "has no .tar files of train"),
        ("parquet", "has no .parquet files of train"),
        ("coco-detection", "has no annotations/instances_train"),
        ("coco-captions", "has no annotations/captions_train"),
        ("text-files", "has no .txt files of train"),
        ("token-files", "has no .bin/.npy files of train"),
    ],
)
def test_missing_data_says_what_is_expected_where(task, words, tmp_path):
    with pytest.raises(MissingDataError, match=words):
        load_data(config(task, tmp_path))
    with pytest.raises(MissingDataError, match="needs --data-dir"):
        load_data(config(task, None))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_files_resumes_bitwise_and_records_what_was_bad(folders, tmp_path, workers):
    (folders / "train/red/red_0.jpeg").write_bytes(b"x" * 100)
    keys = {"workers": workers, "max_bad": 1, "widths": (4, 4), "checkpoint_every": 4, "evaluate_every": 4}
    settings = config("image-folder", folders, model="cnn", **keys)
    assert train(settings, tmp_path / "whole").status == "complete"
    with RunStore(tmp_path / "whole/run.db") as store:
        assert list(store.get("bad_samples")) == [str(folders / "train/red/red_0.jpeg")]

    from surgecollapse.lab.training.checkpoint import load_checkpoint
    from surgecollapse.lab.training.progress import Silent
    from surgecollapse.lab.training.trainer import Training

    state = load_checkpoint(tmp_path / "whole/checkpoints/step-4.pt")
    again = Training(settings, tmp_path / "again", Silent())
    again.load_state_dict(state)
    with torch.random.fork_rng(), RunStore(tmp_path / "run.db", mode="w") as store, again.recorded(store):
        torch.set_rng_state(state["torch_rng"])
        while not again.ended:
            again.advance()
        weights = {name: value.clone() for name, value in again.model.state_dict().items()}
    last = load_checkpoint(tmp_path / "whole/checkpoints/step-8.pt")["model"]
    assert all(torch.equal(last[name], weights[name]) for name in last)
