"""What the live page weighs, how soon it is there, and what it costs the trainer, the server and the browser.

    python benchmarks/page.py

Four parts, in this order. Weight: the files of the page. Loading, in a new window of headless Chromium each time: first
paint of the list, and from the click on a run of a million points in one series to its drawn chart. Live: twenty series
fed at 5 Hz, processor time of the server and of all the browser's processes over wall time, with the page open on a run
at rest beside it. Trainer: steps a second of a small net with its record, 50 streams open and none, in turn; wall time
contains what the streams' readers take on a machine of few cores, processor time a step does not. Needs playwright and
Chromium (``apt-get install chromium``); Linux, as it reads ``/proc``.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _harness import facts, make_parser, publish, spread, verdict
from playwright.sync_api import sync_playwright
from torch import nn

import surgecollapse
from surgecollapse.dashboard import server as page_server
from surgecollapse.record import RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHARTS, HERTZ, STREAMS = 20, 5, 50
LIGHTEST = 150_000
TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def served(root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The page's server in a process of its own, and the address that it tells."""
    command = [sys.executable, "-m", "surgecollapse", "watch", str(root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def processor_seconds(root: int) -> float:
    """Of a process and all that descend from it."""
    spent: dict[int, float] = {}
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            facts = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(place.name)], spent[int(place.name)] = int(facts[1]), (int(facts[11]) + int(facts[12])) / TICK
    family = {root}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(spent.get(member, 0.0) for member in family)


def weight() -> int:
    """Bytes of all the page's files as they are sent."""
    folder = Path(page_server.__file__).parent / "page"
    return sum(len(page_server.lean(name, (folder / name).read_bytes())) for name in page_server.page_files())


def write_points(path: Path, points: int) -> None:
    """A finished run with one series."""
    path.parent.mkdir()
    with RunStore(path, mode="w") as store:
        for step in range(points):
            store.measure(step, "loss/train", 1.0 / (1 + step % 1000))
            if step % 50_000 == 0:
                store.flush()  # or points would be dropped: no disk keeps up with this
        store.set("status", "complete")


def open_run(page: Page, address: str, name: str) -> float:
    """Seconds from the click on a run in the list to its first chart."""
    page.goto(address)
    button = page.get_by_role("link", name=name, exact=True)
    button.wait_for()
    began = time.perf_counter()
    button.click()
    page.wait_for_selector(".chart canvas", timeout=120_000)
    return time.perf_counter() - began


def loading(browser: Browser, address: str, repeats: int) -> dict[str, list[float]]:
    """First paint and first contentful paint of the list, and the time to draw the long run, in ms."""
    found: dict[str, list[float]] = {"first-paint": [], "first-contentful-paint": [], "chart": []}
    for _ in range(repeats):
        context = browser.new_context()
        page = context.new_page()
        found["chart"].append(1e3 * open_run(page, address, "long"))
        for entry in page.evaluate("performance.getEntriesByType('paint').map(e => [e.name, e.startTime])"):
            found[entry[0]].append(entry[1])
        context.close()
    return found


def feed(path: Path, stop: threading.Event) -> None:
    """Write one point of each of twenty series, five times a second."""
    with RunStore(path, mode="a") as store:
        step = 1
        while not stop.wait(1 / HERTZ):
            step += 1
            for chart in range(CHARTS):
                store.measure(step, f"part{chart}/value", float((step * (chart + 3)) % 17))
            store.flush()


def live(browser: Browser, driver: int, root: Path, seconds: float) -> dict[str, float]:
    """Shares of one core over ``seconds`` of a fed page, and of the same page when nothing comes."""
    path = root / "fed" / "run.db"
    path.parent.mkdir()
    with RunStore(path, mode="w") as store:
        for chart in range(CHARTS):
            for step in (0, 1):  # of one point alone, a chart is its number
                store.measure(step, f"part{chart}/value", 0.0)
        store.set("status", "running")
    found = {}
    with served(root) as (server, address):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        open_run(page, address, "fed")
        for name in ("at rest", "fed"):
            stop = threading.Event()
            writer = threading.Thread(target=feed, args=(path, stop))
            if name == "fed":
                writer.start()
            time.sleep(2)
            began, server_then, browser_then = (
                time.perf_counter(),
                processor_seconds(server.pid),
                processor_seconds(driver),
            )
            time.sleep(seconds)
            lasted = time.perf_counter() - began
            found[f"server {name}"] = (processor_seconds(server.pid) - server_then) / lasted
            found[f"browser {name}"] = (processor_seconds(driver) - browser_then) / lasted
            stop.set()
            if name == "fed":
                writer.join()
        page.close()
    return found


def train(path: str, steps: Any, spent: Any, stop: Any) -> None:
    """Train a small net until told to stop; says how far it is and what processor time it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(net.parameters())
    x, y = torch.randn(256, 64), torch.randint(0, 10, (256,))
    with RunStore(path, mode="w") as store:
        store.set("status", "running")
        with surgecollapse.attach(net, optimizer, sparsity=0.9, total_steps=10**6, recorders=(store,)):
            while not stop.is_set():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
                steps.value += 1
                spent.value = time.process_time()
                if steps.value % 10 == 0:
                    store.measure(steps.value, "loss/train", loss.item())


class Streams:
    """Fifty plain readers of a run's stream, in a process of their own."""

    def __init__(self, address: str, run: str) -> None:
        ready, self._stop, self._read = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Value("L")
        given = (address, run, ready, self._stop, self._read)
        self._process = multiprocessing.Process(target=read_streams, args=given, daemon=True)
        self._process.start()
        assert ready.wait(30)

    def close(self) -> int:
        """Bytes that all of them read."""
        self._stop.set()
        self._process.join()
        return int(self._read.value)


def read_streams(address: str, run: str, ready: Any, stop: Any, read: Any) -> None:
    """Open fifty streams and read them until told to stop."""
    host, token = address.removeprefix("http://").split("/#")
    request = f"GET /api/runs/{run}/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    async def follow(reader: asyncio.StreamReader) -> None:
        while part := await reader.read(65536):
            read.value += len(part)

    async def work() -> None:
        opened = [await asyncio.open_connection(*host.split(":")) for _ in range(STREAMS)]
        for reader, writer in opened:
            writer.write(request)
            assert b" 200 " in await reader.readline()
        tasks = [asyncio.create_task(follow(reader)) for reader, _ in opened]
        ready.set()
        while not stop.is_set():
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        for _, writer in opened:
            writer.close()

    asyncio.run(work())


def trainer(root: Path, turns: int, seconds: float) -> dict[str, list[float]]:
    """Ratios with fifty streams over without: wall and processor time of a step; and the server's share of a core."""
    steps, spent, stop = multiprocessing.Value("L"), multiprocessing.Value("d"), multiprocessing.Event()
    process = multiprocessing.Process(target=train, args=(str(root / "run.db"), steps, spent, stop), daemon=True)
    process.start()
    found: dict[str, list[float]] = {"steps a second": [], "wall": [], "processor": [], "server": [], "bytes": []}

    def block() -> tuple[float, float]:
        began, step, cpu = time.perf_counter(), steps.value, spent.value
        time.sleep(seconds)
        done = steps.value - step
        return (time.perf_counter() - began) / done, (spent.value - cpu) / done

    while steps.value < 200:
        time.sleep(0.1)
    with served(root) as (server, address):
        base, token = address.split("/#")
        request = urllib.request.Request(f"{base}/api/runs", headers={"authorization": f"Bearer {token}"})
        run = json.load(urllib.request.urlopen(request))["runs"][0]["id"]
        for turn in range(turns):
            pair = {}
            for opened in (False, True) if turn % 2 == 0 else (True, False):
                streams = Streams(address, run) if opened else None
                time.sleep(0.5)
                before = processor_seconds(server.pid)
                pair[opened] = block()
                if streams is not None:
                    found["server"].append((processor_seconds(server.pid) - before) / seconds)
                    found["bytes"].append(streams.close() / STREAMS / seconds)
            found["steps a second"].append(1 / pair[False][0])
            found["wall"].append(pair[True][0] / pair[False][0])
            found["processor"].append(pair[True][1] / pair[False][1])
    stop.set()
    process.join()
    return found


def ranged(values: list[float], digits: int = 3) -> str:
    """Median and extremes."""
    return spread((statistics.median(values), min(values), max(values)), digits)


def goal(value: float, most: float) -> str:
    """Whether it is met."""
    return f"≤ {most:,}: {verdict(value, most)}"


def within(ratios: list[float], most: float = 1.01) -> str:
    """Whether the middle half of the ratios lies on one side of a goal."""
    low, _, high = statistics.quantiles(ratios, n=4)
    verdict = "met" if high <= most else "missed" if low > most else f"undecided, quartiles {low:.3f}–{high:.3f}"
    return f"≤ {most:,}: {verdict}"


def table(record: dict[str, Any]) -> str:
    """The record as a page."""
    loads, share, cost = record["loading_ms"], record["live"], record["trainer"]
    rows = [
        ("weight of the page, bytes, uncompressed", f"{record['bytes']:,}", goal(record["bytes"], LIGHTEST)),
        ("first paint of the list, ms", ranged(loads["first-paint"], 0), ""),
        ("first contentful paint, ms", ranged(loads["first-contentful-paint"], 0), ""),
        (f"click to the drawn chart of {record['points']:,} points, ms", ranged(loads["chart"], 0), ""),
        (f"server, {CHARTS} series at {HERTZ} Hz, share of a core", f"{share['server fed']:.1%}", ""),
        ("server, the same run at rest", f"{share['server at rest']:.1%}", ""),
        (f"browser, {CHARTS} charts at {HERTZ} Hz, share of a core", f"{share['browser fed']:.1%}", ""),
        ("browser, the same run at rest", f"{share['browser at rest']:.1%}", ""),
        ("trainer, steps a second, no page open", ranged(cost["steps a second"], 0), ""),
        (f"trainer, processor time, {STREAMS} pages over none", ranged(cost["processor"]), within(cost["processor"])),
        (f"trainer, wall time, {STREAMS} pages over none", ranged(cost["wall"]), within(cost["wall"])),
        (f"server, {STREAMS} streams open, share of a core, percent", ranged([100 * v for v in cost["server"]], 1), ""),
        ("bytes a second to each of them", ranged(cost["bytes"], 0), ""),
    ]  # fmt: skip
    head = [
        "# The live page",
        "",
        f"`{record['command']}`",
        "",
        f"{record['machine']}, {record['cores']} cores, load {record['load']:.1f} when it began; python "
        f"{record['python']}, torch {record['torch']}, {record['browser']} (headless). Medians; least and greatest in "
        f"brackets: {record['repeats']} loads, {record['turns']} pairs of blocks of {record['seconds']:g} s, in turn.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
    ]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def main() -> None:
    """Measure, print and write ``benchmarks/results/page.{json,md}``."""
    parser = make_parser(__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7, help="loads of the page")
    parser.add_argument("--live", type=float, default=30.0, help="seconds of the live part")
    parser.add_argument("--turns", type=int, default=20, help="pairs of blocks of training")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one block")
    options = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    record: dict[str, Any] = {
        **facts(machine=platform.machine(), load=os.getloadavg()[0]),
        "bytes": weight(),
        **{name: getattr(options, name) for name in ("points", "repeats", "turns", "seconds")},
    }
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "train").mkdir()
        record["trainer"] = trainer(root / "train", options.turns, options.seconds)
        chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        (root / "shown").mkdir()
        write_points(root / "shown" / "long" / "run.db", options.points)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            record["browser"] = f"Chromium {browser.version}"
            with served(root / "shown") as (_, address):
                record["loading_ms"] = loading(browser, address, options.repeats)
            (family,) = children(os.getpid(), "node")
            record["live"] = live(browser, family, root / "shown", options.live)
            browser.close()
    text = table(record)
    publish(options.out / "page", record, text)


def children(parent: int, name: str) -> list[int]:
    """Processes of a name that this one started: playwright's driver, under which its browser runs."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = place.read_text().rpartition(")")
        except OSError:
            continue
        if int(tail.split()[1]) == parent and name in head.partition("(")[2]:
            found.append(int(place.parent.name))
    return found


if __name__ == "__main__":
    main()
