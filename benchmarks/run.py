"""The comparison: `python -m benchmarks.run [--rounds N] [--quick] [--only NAME ...]`.

Every figure is server CPU (user + system, all threads) per delivered event, or a latency or a memory figure, as the
median of rounds that alternate between the stacks, all in one run. Compare figures of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.client import Crowd, Tally

PROTOCOL = "unified-websocket.v1"
PORT = 18_800
Figures = dict[str, float]


class Server:
    """A server process of ours. Nothing else is ever stopped."""

    def __init__(self, stack: str, port: int, retention: dict[str, Any] | None = None) -> None:
        self.stack = stack
        self.port = port
        arguments = [sys.executable, "-m", "benchmarks.server", stack, str(port)]
        if retention:
            arguments.append(json.dumps(retention))
        self._process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)

    async def get(self, path: str) -> Figures:
        def fetch() -> Figures:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=300) as answer:
                figures: Figures = json.load(answer)
                return figures

        return await asyncio.to_thread(fetch)

    async def ready(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                await self.get("/control/usage")
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.stack} did not start")

    async def usage(self) -> Figures:
        return await self.get("/control/usage")

    async def run(self, workload: str, users: int, events: int, first: int = 0) -> Figures:
        return await self.get(f"/control/run?workload={workload}&users={users}&events={events}&first={first}")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.asynccontextmanager
async def serving(stack: str, retention: dict[str, Any] | None = None) -> AsyncIterator[Server]:
    global PORT
    PORT += 1
    server = Server(stack, PORT, retention)
    try:
        await server.ready()
        yield server
    finally:
        server.stop()


async def cpu_per_event(
    stack: str,
    workload: str,
    users: int,
    events: int,
    *,
    protocol: str | None = None,
    retention: dict[str, Any] | None = None,
) -> Figures:
    """One round: microseconds of server CPU for each event that arrived, and events per frame."""
    async with serving(stack, retention) as server:
        tally = Tally()
        crowd = Crowd()
        await crowd.connect(stack, server.port, users, tally, protocol=protocol)
        await server.run(workload, users, max(users, events // 10))  # warm
        await tally.quiet(0.2)
        seen, frames = tally.events, tally.frames
        before = await server.usage()
        await server.run(workload, users, events)
        complete = await tally.reach(seen + events, 60)
        after = await server.usage()
        arrived = tally.events - seen
        await crowd.close()
        if not complete and not tally.gaps:
            raise RuntimeError(f"{stack}: {arrived} of {events} events arrived")
        return {
            "us_per_event": (after["cpu"] - before["cpu"]) / arrived * 1e6,
            "events_per_frame": arrived / max(1, tally.frames - frames),
            "arrived": arrived,
            "gaps": tally.gaps,
        }


async def latency(stack: str, workload: str, users: int, events: int, *, protocol: str | None = None) -> Figures:
    """One round: milliseconds from emit to receive."""
    async with serving(stack) as server:
        tally = Tally(latencies=True)
        crowd = Crowd()
        await crowd.connect(stack, server.port, users, tally, protocol=protocol)
        await server.run(workload, users, max(users, events // 10))
        await tally.quiet(0.2)
        assert tally.latencies is not None
        tally.latencies.clear()
        seen = tally.events
        await server.run(workload, users, events)
        await tally.reach(seen + events, 60)
        times = sorted(tally.latencies)
        await crowd.close()
        return {
            "p50_ms": times[len(times) // 2] / 1e6,
            "p99_ms": times[int(len(times) * 0.99)] / 1e6,
            "arrived": len(times),
        }


async def idle_memory(stack: str, connections: int) -> Figures:
    """One round: resident bytes of the server for each idle connection."""
    async with serving(stack) as server:
        tally = Tally()
        crowd = Crowd()
        await crowd.connect(stack, server.port, 200, tally)
        before = await server.usage()
        await crowd.connect(stack, server.port, connections, tally, first=200)
        await asyncio.sleep(1.0)
        after = await server.usage()
        await crowd.close()
        return {"kib_per_connection": (after["resident"] - before["resident"]) / connections / 1024}


async def stopped_reader(reads: bool, events: int) -> Figures:
    """One round: microseconds of CPU to emit to a user who reads, or whose client has stopped reading."""
    async with serving("ours") as server:
        tally = Tally()
        crowd = Crowd()
        await crowd.connect("ours", server.port, 1, tally)
        if not reads:
            crowd.transports[0].underlying_transport.pause_reading()
        await server.run("unicast", 1, 2_000)  # fills what the kernel buffers, where nobody reads
        figures = await server.run("unicast", 1, events)
        await crowd.close()
        return {"us_per_emit": figures["cpu"] / events * 1e6}


async def neighbours(reads: bool, events: int) -> Figures:
    """One round: milliseconds from emit to receive for 200 users, beside one who gets as many events as all of them and
    whose client reads them, or has stopped reading."""
    async with serving("ours") as server:
        tally, busy = Tally(latencies=True), Tally()
        crowd, other = Crowd(), Crowd()
        await crowd.connect("ours", server.port, 200, tally)
        await other.connect("ours", server.port, 1, busy, first=200)
        if not reads:
            other.transports[0].underlying_transport.pause_reading()
        await server.run("unicast", 1, 4_000, 200)  # fills what the kernel buffers, where nobody reads
        beside = asyncio.create_task(server.run("paced", 1, events, 200))
        await server.run("paced", 200, events)
        await tally.reach(events, 60)
        await beside
        assert tally.latencies is not None
        times = sorted(tally.latencies)
        await crowd.close()
        await other.close()
        return {"p99_ms": times[int(len(times) * 0.99)] / 1e6, "p50_ms": times[len(times) // 2] / 1e6}


def comparisons(quick: bool) -> dict[str, dict[str, Callable[[], Awaitable[Figures]]]]:
    """Each comparison by name: its rows, and how one round of each is measured."""
    unicast = 10_000 if quick else 40_000
    burst = 20_000 if quick else 100_000
    few, many = (1_000, 1_000) if quick else (4_000, 10_000)
    roomy = {"events": burst * 2, "bytes": burst * 1_000}
    return {
        "unicast, 200 users, one event per frame": {
            "ours": lambda: cpu_per_event("ours", "unicast", 200, unicast),
            "hand-written send_json": lambda: cpu_per_event("handwritten", "unicast", 200, unicast),
            "python-socketio emit(to=sid)": lambda: cpu_per_event("socketio", "unicast", 200, unicast // 2),
        },
        "unicast, 200 users, frames shared": {
            "ours, unified-websocket.v1": lambda: cpu_per_event("ours", "unicast", 200, unicast, protocol=PROTOCOL),
            "hand-written send_json": lambda: cpu_per_event("handwritten", "unicast", 200, unicast),
            "python-socketio emit(to=sid)": lambda: cpu_per_event("socketio", "unicast", 200, unicast // 2),
        },
        "burst of one user, frames shared, retention sized for it": {
            "ours, unified-websocket.v1": lambda: cpu_per_event(
                "ours", "burst", 1, burst, protocol=PROTOCOL, retention=roomy
            ),
            "hand-written send_json": lambda: cpu_per_event("handwritten", "burst", 1, burst),
            "python-socketio emit(to=sid)": lambda: cpu_per_event("socketio", "burst", 1, burst // 2),
        },
        "100 users at once": {
            "ours": lambda: latency("ours", "at_once", 100, few),
            "hand-written send_json": lambda: latency("handwritten", "at_once", 100, few),
            "python-socketio emit(to=sid)": lambda: latency("socketio", "at_once", 100, few),
        },
        "paced, 1,000 users, 2,000 events per second": {
            "ours": lambda: latency("ours", "paced", 1_000, few * 2),
            "ours, unified-websocket.v1": lambda: latency("ours", "paced", 1_000, few * 2, protocol=PROTOCOL),
            "hand-written send_json": lambda: latency("handwritten", "paced", 1_000, few * 2),
            "python-socketio emit(to=sid)": lambda: latency("socketio", "paced", 1_000, few * 2),
        },
        "200 users beside one whose client has stopped reading": {
            "reads": lambda: neighbours(True, few * 2),
            "has stopped": lambda: neighbours(False, few * 2),
        },
        "idle connections": {
            "ours": lambda: idle_memory("ours", many),
            "empty ASGI endpoint": lambda: idle_memory("empty", many),
            "hand-written FastAPI route": lambda: idle_memory("handwritten", many),
            "python-socketio": lambda: idle_memory("socketio", many),
        },
        "emit to a user whose client has stopped reading": {
            "reads": lambda: stopped_reader(True, unicast),
            "has stopped": lambda: stopped_reader(False, unicast),
        },
    }


async def measure(names: list[str], rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for name, rows in comparisons(quick).items():
        if names and not any(wanted in name for wanted in names):
            continue
        collected: dict[str, list[Figures]] = {row: [] for row in rows}
        for _ in range(1 if name == "idle connections" else rounds):
            for row, one_round in rows.items():  # alternating, so that a slow minute of the machine hits all
                collected[row].append(await one_round())
        results[name] = {
            row: {
                figure: {
                    "median": statistics.median(entry[figure] for entry in entries),
                    "min": min(entry[figure] for entry in entries),
                    "max": max(entry[figure] for entry in entries),
                }
                for figure in entries[0]
            }
            for row, entries in collected.items()
        }
        show(name, results[name])
    return results


def show(name: str, rows: dict[str, Any]) -> None:
    print(f"\n{name}")
    key = next(iter(next(iter(rows.values()))))
    best = next(iter(rows.values()))[key]["median"]
    for row, figures in rows.items():
        parts = [
            f"{figure} {spread['median']:.2f} [{spread['min']:.2f} - {spread['max']:.2f}]"
            for figure, spread in figures.items()
        ]
        print(f"  {row:32} {', '.join(parts)}  ({figures[key]['median'] / best:.2f} x the first row)")
    if "shared" in name:
        print("  Events of the first row share frames; those of its peers do not, and their clients parse each alone.")
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    packages = ["fastapi", "starlette", "uvicorn", "uvloop", "websockets", "pydantic", "python-socketio", "picows"]
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": cpu.partition(":")[2].strip(),
        "versions": {name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small numbers, for trying the benchmark itself")
    parser.add_argument("--only", nargs="*", default=[], help="comparisons whose name contains one of these")
    parser.add_argument("--save", action="store_true", help="write a file under benchmarks/results/")
    arguments = parser.parse_args()
    about = machine()
    print(json.dumps(about))
    results = asyncio.run(measure(arguments.only, arguments.rounds, arguments.quick))
    if arguments.save:
        name = about["date"].replace(":", "").replace("+0000", "Z")
        target = Path(__file__).parent / "results" / f"{name}.json"
        target.write_text(json.dumps({"about": about, "rounds": arguments.rounds, "results": results}, indent=1) + "\n")
        print(f"\nsaved as benchmarks/results/{target.name}")


if __name__ == "__main__":
    main()
