"""``surgecollapse export``: every format is written, loaded back and compared; mistakes are one line."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

from surgecollapse.cli import MISTAKE, main
from surgecollapse.export import load_csr, load_metadata, load_program, load_sparse
from surgecollapse.lab.config import as_mapping, layered, make_config
from surgecollapse.lab.training.evaluation import load_checkpointed_run
from surgecollapse.lab.training.run import train
from surgecollapse.report import export_run as deploy
from surgecollapse.report.export_run import FORMATS, export_run

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(
        make_config(task="digits", steps=40, widths=(128, 128), policy="one_shot", evaluate_every=20, sparsity=0.8),
        folder,
    )
    return folder


@pytest.fixture
def model(finished):
    run = load_checkpointed_run(finished)
    run.store.close()
    return run.model


def test_sparse_file_of_a_run_holds_its_weights_in_the_promised_size(finished, model, tmp_path):
    done = export_run(finished, "sparse", out=tmp_path / "net")
    back = load_sparse(done.path)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    assert done.bytes == done.path.stat().st_size <= 1.1 * done.bound
    assert done.dense == sum(4 * p.numel() for p in model.parameters())
    assert done.max_difference == 0.0
    assert done.accuracy[0] == done.accuracy[1] > 0.1
    assert load_metadata(done.path)["task"] == "digits"


def test_csr_file_of_a_run_computes_what_the_run_learned(finished, model, tmp_path):
    done = export_run(finished, "csr", out=tmp_path / "net", batch=16)
    assert done.max_difference < 1e-4
    assert done.speedup >= 1
    assert any("zeros" in note for note in done.notes)
    x = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(load_csr(model, done.path)(x), model(x))


def test_compact_file_of_a_run_is_a_program_that_computes_what_the_run_learned(finished, model, tmp_path):
    done = export_run(finished, "compact", out=tmp_path / "net")
    assert done.max_difference < 1e-4
    assert "units cut" in done.notes[0]
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_program(done.path)(x), model(x))


def test_onnx_file_of_a_run_gives_the_same_logits(finished, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export_run(finished, "onnx", out=tmp_path / "net")
    assert done.max_difference < 1e-4
    assert done.accuracy[0] == done.accuracy[1]


def test_two_four_file_of_a_run_holds_half_precision_weights_of_that_pattern(finished, tmp_path, monkeypatch):
    run = load_checkpointed_run(finished)
    with torch.no_grad():
        run.model.body[1].weight.view(-1, 4)[:, :2] = 0
    monkeypatch.setattr(deploy, "load_checkpointed_run", lambda *_, **__: run)
    done = export_run(finished, "2:4", out=tmp_path / "net")
    back = load_sparse(done.path)
    assert {value.dtype for value in back.values()} == {torch.float16}
    assert torch.equal(back["body.1.weight"], run.model.body[1].weight.half())
    assert 0 < done.max_difference < 0.05
    assert "body.1: ready for 2:4 kernels" in done.notes


def test_a_run_without_the_two_four_pattern_is_refused_with_the_reasons(finished, capsys):
    assert main(["export", str(finished), "--format", "2:4"]) == MISTAKE
    assert "body.4: more than two of four" in capsys.readouterr().err


def test_the_command_offers_exactly_the_formats_that_there_are(capsys):
    main(["export", "--help"])
    (choices,) = re.findall(r"\[choices: ([^\]]*)\]", " ".join(capsys.readouterr().out.replace("│", " ").split()))
    assert choices.split(", ") == list(FORMATS)


def test_command_writes_into_the_run_and_prints_a_table(finished, capsys):
    assert main(["export", str(finished), "--format", "sparse"]) == 0
    out = capsys.readouterr().out
    assert (finished / "export" / "model.safetensors").is_file()
    assert "written" in out
    assert "0.0e+00" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "gguf"], "sparse"),
        (["--format", "sparse", "--batch", "0"], "batch"),
        ([], "format"),
    ],
)
def test_mistakes_are_one_line(finished, capsys, argv, message):
    assert main(["export", str(finished), *argv]) == MISTAKE
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_link_out_of_the_run_is_written_only_where_the_user_names_it(finished, tmp_path):
    """The run may be a stranger's."""
    theirs = tmp_path / "theirs"
    theirs.write_text("kept")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    place = folder / "export" / FORMATS["sparse"][0]
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(theirs)
    with pytest.raises(ValueError, match=r"is a link out of the run's folder: name the file with --out"):
        export_run(folder, "sparse")
    assert theirs.read_text() == "kept"
    export_run(folder, "sparse", out=place)
    assert place.is_symlink()
    assert load_metadata(theirs)["task"] == "digits"


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--format", "sparse"]) == MISTAKE
    assert "holds no run" in capsys.readouterr().err


def test_a_run_that_is_not_finished_says_how_to_finish_it(finished, monkeypatch):
    from surgecollapse.record import RunStore

    with RunStore(finished / "run.db", mode="a") as store:
        store.set("status", "interrupted")
    try:
        with pytest.raises(ValueError, match="--resume"):
            export_run(finished, "sparse")
    finally:
        with RunStore(finished / "run.db", mode="a") as store:
            store.set("status", "complete")


@pytest.fixture
def broken(finished, monkeypatch):
    """The run, read with one weight that is NaN."""
    run = load_checkpointed_run(finished)
    with torch.no_grad():
        run.model.head.weight[0, 0] = torch.nan
    monkeypatch.setattr(deploy, "load_checkpointed_run", lambda *_, **__: run)
    return run


@pytest.mark.parametrize("form", FORMATS)
def test_a_net_that_has_diverged_is_not_exported(finished, broken, form, tmp_path):
    with pytest.raises(ValueError, match=r"diverged, there is nothing to export: not finite are head\.weight \(1 of"):
        export_run(finished, form, out=tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_net_whose_outputs_overflow_is_not_exported(finished, broken, tmp_path):
    with torch.no_grad():
        broken.model.head.weight.fill_(3e38)
    with pytest.raises(ValueError, match="its logits are not finite"):
        export_run(finished, "sparse", out=tmp_path / "net")


def test_a_run_that_diverges_is_called_so_everywhere(tmp_path, capsys):
    from surgecollapse.dashboard.run_state import state
    from surgecollapse.record.schema import connect
    from surgecollapse.report import write_report

    folder = tmp_path / "run"
    plan = make_config(task="digits", steps=12, widths=(16,), policy="none", optimizer="sgd", lr=1e20, evaluate_every=6)
    result = train(plan, folder)
    assert (result.status, result.summary["diverged"], result.summary["accuracy"]) == ("diverged", True, 0.0)
    assert train(None, folder, resume=True).status == "diverged"
    connection = connect(folder / "run.db", "r")
    assert state(connection, 0.0)["status"] == "diverged"
    connection.close()
    assert "Diverged: run" in write_report([folder], tmp_path / "report").read_text(encoding="utf-8")
    assert main(["export", str(folder), "--format", "sparse"]) == MISTAKE
    assert "diverged" in capsys.readouterr().err
    again = train(layered(as_mapping(plan), {"lr": 0.01}), tmp_path / "sound")
    assert (again.status, again.summary["diverged"]) == ("complete", False)
