"""Runs as other trackers have them."""

from __future__ import annotations

import pytest

from surgecollapse.lab.config import make_config
from surgecollapse.lab.exporters import to_tensorboard
from surgecollapse.lab.run import train
from surgecollapse.record import RunStore, load_run

pytest.importorskip("tensorboardX")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    train(make_config(task="digits", steps=40, widths=(8,), train_samples=200, evaluate_every=20, every=10,
                      checkpoint_every=20, monitors="none", policy="hold"), folder)  # fmt: skip
    return folder


def test_every_number_of_the_record_is_in_the_event_file(run):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the package is whole)

    folder = to_tensorboard(run)
    scalars, kinds = {}, set()
    for path in folder.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                kinds.add((value.tag.split("/")[0], value.WhichOneof("value")))
                if value.WhichOneof("value") == "simple_value":
                    scalars[value.tag, event.step] = value.simple_value
    with RunStore(run / "run.db") as store:
        steps, values = store.measurements("loss/train")
        assert [scalars["loss/train", step] for step in steps] == pytest.approx(values.tolist())
        reading = store.readings()[0]
        assert scalars[f"layer_entropy/{reading.layers[0].layer}", reading.step] == pytest.approx(
            reading.layers[0].entropy
        )
    assert ("weights", "histo") in kinds
    assert any(tag == "custom_scalars__config__" for tag, _ in kinds)


def test_a_run_is_read_as_tables_and_arrays(run):
    pandas = pytest.importorskip("pandas")
    with load_run(run) as found:
        losses = found.series("loss/train")
        table = found.measurements()
        assert isinstance(table, pandas.DataFrame)
        assert table[table.name == "loss/train"].value.tolist() == losses.values.tolist()
        assert found.readings().step.tolist() == [10, 20, 30, 40]
        assert set(found.layers().columns) >= {"step", "layer", "entropy"}
        assert found.commands().empty
        assert found.meta["status"] == "complete"
        assert found.meta["checkpoints"] == [20, 40]
        assert "torch" in found.meta["environment"]
