"""Kill searches and comparisons with SIGKILL at random moments, and their servers: is the study whole?

    python benchmarks/kill_studies.py --kills 20

A search (``surgecollapse tune``) keeps its study in a PostgreSQL server of its own. At random moments the tuner, one of
its worker processes or the server is killed. A comparison (``surgecollapse compare``) trains on a Dask cluster of its
own. There the comparison, a worker or the scheduler with all workers is killed. The same command goes on after each
kill. What had ended before a kill must be there after it, unchanged; at the end nothing is missing, and nothing was
done twice. A loss ends the benchmark with an error. Needs PostgreSQL and ``surgecollapse[tune,postgresql,cluster]``.
Written to ``benchmarks/results/kill_studies.{json,md}``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _harness import facts, make_parser, publish, read_rows, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from servers import Cluster, Server

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-m", "surgecollapse"]
TUNE = ["digits", "--search", "lr=1e-3..1e-1:log", "--steps", "40", "--widths", "8", "--policy", "gmp", "--seeds", "2"]
COMPARE = ["smoke", "--methods", "gmp,static", "--budget", "none"]
_ENDS = 120.0
"""Seconds that a driver has to notice that its server is gone."""


class Driven:
    """A command that is started again whenever it has ended, and killed with what it needs.

    Args:
        words: the command.
        log: takes what it says.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        self._words, self._log = [*COMMAND, *words], log
        self.process: subprocess.Popen[bytes] | None = None
        self.said: list[str] = []
        """Last line of each time that it ended by itself."""

    def ensure(self) -> None:
        """Start it, if it does not run."""
        if self.process is None or self.process.poll() is not None:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(self._words, stdout=log, stderr=log)

    def kill(self) -> bool:
        """Kill it; whether it ran."""
        assert self.process is not None
        ran = self.process.poll() is None
        self.process.kill()
        self.process.wait()
        return ran

    def kill_worker(self, draws: random.Random) -> bool:
        """Kill one of its worker processes; whether there was one."""
        assert self.process is not None
        workers = _workers(self.process.pid)
        if not workers:
            return False
        os.kill(draws.choice(workers), signal.SIGKILL)
        return True

    def wait(self, seconds: float = _ENDS) -> int | None:
        """Wait for its end; its exit code, ``None`` if it runs on."""
        assert self.process is not None
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        lines = self._log.read_text(errors="replace").strip().splitlines()
        self.said.append(lines[-1] if lines else "")
        assert "Traceback" not in self._log.read_text(errors="replace"), self._log.read_text(errors="replace")
        return code


def _workers(pid: int) -> list[int]:
    """Processes that a process has spawned for work."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended meanwhile
        return []
    found = []
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except OSError:
            continue
    return found


def kill_rounds(
    driven: Driven,
    victims: dict[str, Callable[[], bool]],
    check: Callable[[], None],
    kills: int,
    longest: float,
    draws: random.Random,
) -> Counter[str]:
    """Kill ``kills`` times at random moments, each in turn and in a random order; how often each was hit."""
    found = Counter[str]()
    order: list[str] = []
    while sum(found.values()) < kills:
        if not order:
            order = draws.sample(sorted(victims), len(victims))
        driven.ensure()
        time.sleep(draws.uniform(0.0, longest))
        victim = order.pop()
        found[victim] += victims[victim]()
        check()
    return found


def kill_searches(kills: int, longest: float, seed: int, trials: int) -> dict[str, Any]:
    """A search over PostgreSQL, whose tuner, workers and server are killed."""
    import optuna
    from optuna.trial import TrialState

    from surgecollapse.tuning.storage import LOST, REASON, RETRY, counted_trials, open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draws = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="surgecollapse-kills-") as folder:
        place, home = Path(folder), Path(folder) / "server"
        place.chmod(0o755)  # the user of the server enters it
        home.mkdir()
        server, out = Server(home), place / "study"
        words = ["tune", *TUNE, "--sampler", "random", "--workers", "2", "--fresh", "1", "--out", str(out)]
        driven = Driven([*words, "--storage", server.address, "--trials", str(trials)], place / "log")
        ended: dict[int, tuple[Any, ...]] = {}
        rows: list[Any] = []

        def kill_server() -> bool:
            server.kill()
            time.sleep(draws.uniform(0.0, 2.0))
            code = driven.wait()  # it says so in one line, or had ended
            assert code in (0, 2), (code, driven.said)
            server.start()
            return True

        def check() -> None:
            """All that had ended is there as it was; no run was made twice."""
            now = [row for row in read_rows_so_far(out / "rows.jsonl") if "key" in row]
            assert now[: len(rows)] == rows
            assert len({row["key"] for row in now}) == len(now)
            rows[:] = now
            storage = open_storage(server.address)
            if "digits" not in {study.study_name for study in optuna.get_all_study_summaries(storage)}:
                assert not ended
                return
            trials_now = optuna.load_study(study_name="digits", storage=storage).trials
            final = {t.number: (t.state, t.values, t.params) for t in trials_now if t.state.is_finished()}
            assert ended.items() <= final.items(), "a trial that had ended has changed"
            ended.update(final)

        try:
            victims = {
                "tuner": driven.kill,
                "worker": lambda: driven.kill_worker(draws),
                "database": kill_server,
            }
            found = kill_rounds(driven, victims, check, kills, longest, draws)
            driven.kill()
            driven.ensure()
            assert driven.wait(900.0) == 0, driven.said
            check()
            study = optuna.load_study(study_name="digits", storage=open_storage(server.address))
            lost = [t.number for t in study.trials if t.user_attrs.get(REASON) == LOST]
            again = [t.user_attrs[RETRY] for t in study.trials if RETRY in t.user_attrs]
            counted = counted_trials(study)
            assert len(counted) == trials
            assert sorted(again) == lost, "a lost trial is repeated once"
            assert all(t.state.is_finished() for t in study.trials)
            failed = [t for t in counted if t.state is TrialState.FAIL]
            assert all("killed by signal 9" in t.user_attrs[REASON] for t in failed)
            assert len(failed) <= found["worker"]
            by_trial = Counter(row["trial"] for row in rows if row["trial"] is not None)
            complete = [t for t in counted if t.state is TrialState.COMPLETE]
            assert all(by_trial[t.number] == 2 for t in complete if RETRY not in t.user_attrs)
            assert (out / "index.html").is_file()
        finally:
            driven.kill()
            server.stop()
    return {"kills": dict(found), "trials": trials, "lost and repeated": len(lost), "failed": len(failed)}


def kill_comparisons(kills: int, longest: float, seed: int, seeds: int) -> dict[str, Any]:
    """A comparison on a Dask cluster, whose driver, workers and scheduler are killed."""
    draws = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="surgecollapse-kills-") as folder:
        place = Path(folder)
        cluster, out = Cluster(place), place / "out"
        words = ["compare", *COMPARE, "--seeds", str(seeds), "--cluster", cluster.address, "--out", str(out)]
        driven = Driven(words, place / "log-of-driver")
        rows: list[Any] = []

        def kill_worker() -> bool:
            cluster.kill_worker(draws.randrange(2), replace=True)
            return True

        def kill_head() -> bool:
            cluster.restart_all()
            return True

        def check() -> None:
            now = [row for row in read_rows_so_far(out / "rows.jsonl") if "method" in row]
            assert now[: len(rows)] == rows
            pairs = [(row["method"], row["seed"]) for row in now if "error" not in row]
            assert len(set(pairs)) == len(pairs)
            rows[:] = now

        try:
            victims = {"comparison": driven.kill, "worker": kill_worker, "scheduler and workers": kill_head}
            found = kill_rounds(driven, victims, check, kills, longest, draws)
            driven.kill()
            driven.ensure()
            assert driven.wait(900.0) == 0, driven.said
            check()
        finally:
            driven.kill()
            cluster.stop()
        here = place / "here"
        local = [*COMMAND, "compare", *COMPARE, "--seeds", str(seeds), "--jobs", "2", "--out", str(here)]
        subprocess.run(local, check=True, capture_output=True)
        undisturbed = [row for row in read_rows(here / "rows.jsonl") if "method" in row]
        assert _results(rows) == _results(undisturbed), "another result than undisturbed"
    return {"kills": dict(found), "runs": len(undisturbed)}


def _results(rows: list[Any]) -> dict[tuple[str, int], tuple[float, ...]]:
    good = [row for row in rows if "error" not in row]
    names = ("accuracy", "loss", "sparsity_reached", "mean_density")
    return {(row["method"], row["seed"]): tuple(row[name] for name in names) for row in good}


def read_rows_so_far(file: Path) -> list[Any]:
    """Rows of a file that a killed process may have left with a line that is cut off."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    """Kill, check, print and write ``benchmarks/results/kill_studies.{json,md}``."""
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind of study")
    parser.add_argument("--longest", type=float, default=15.0, help="seconds between two kills, at most")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    search = kill_searches(options.kills, options.longest, options.seed, 3 * options.kills)
    comparison = kill_comparisons(options.kills, options.longest, options.seed, 2 * options.kills)
    minutes = (time.monotonic() - began) / 60
    about = facts(minutes=minutes)
    lines = ["# Studies killed at random moments", "", f"`{about['command']}`; {minutes:.0f} minutes.", ""]
    lines += ["Nothing was lost, and nothing done twice: either ends the benchmark with an error.", ""]
    kills = {**{f"search: {k}": n for k, n in search["kills"].items()},
             **{f"comparison: {k}": n for k, n in comparison["kills"].items()}}  # fmt: skip
    cells = [[name, str(count)] for name, count in kills.items()]
    cells += [["trials that counted, of the search", str(search["trials"])]]
    cells += [["… whose worker was killed: recorded as failed", str(search["failed"])]]
    cells += [["trials cut off with the tuner or the database: each repeated once", str(search["lost and repeated"])]]
    cells += [["runs of the comparison: all results as undisturbed", str(comparison["runs"])]]
    record = {"facts": about, "search": search, "comparison": comparison}
    publish(options.out / "kill_studies", record, "\n".join([*lines, *table(("killed", "times"), cells)]))


if __name__ == "__main__":
    main()
