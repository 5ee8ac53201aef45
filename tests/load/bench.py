#!/usr/bin/env python3
"""Measures the server against a yardstick, a step, and other servers that are installed.

    make bench                       all, with curves for notes/plots/: about ten minutes
    make bench QUICK=1               the table only, with fewer rounds: under a minute
    make bench PEER='CMD {port}'     with one more chat server: it greets with `Welcome`

What is compared:
  final    final/chatsrv -n: without the prefix, so that all send the same bytes
  step 6   steps/6-broadcast.c
  floor    tests/load/floor.c, the least that such a server can do
  redis    redis-server, publish and subscribe;    if installed
  nats     nats-server, likewise;                  if installed
  peer     the command in PEER;                    if given

Every run starts its server anew on a free port of the loopback, with /dev/null for a log,
and stops it. The servers take turns within a round; the table shows medians of rounds,
and ratios are medians of the rounds' ratios: what disturbs the machine then disturbs
neighbours alike.

What a delivery costs is the server's own CPU time; wall time would be noise. Meanwhile
server and tester share one processor: each works off all that waits and then lets the
other go on, neither pays for waking a processor that sleeps, and whatever else the
machine does can run on another. Rates and latencies are taken with a processor for each.

All results go to build/bench.json. Exit code 1 if final or the floor failed in a run.
"""
import json
import os
import pathlib
import platform
import resource
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
PROGRAMS = shlex.quote(str(BUILD))    # as a part of a command: its path may have spaces
RESULTS = ROOT / "build" / "bench.json"
MAKE = os.environ.get("MAKE") or "make"
QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 3 if QUICK else 7
PATIENCE = 120              # seconds for a run that takes a few
ATTEMPTS = 3                # to start a server: a free port may be taken in between


# ---- The servers -----------------------------------------------------------------------

class Server(NamedTuple):
    name: str
    command: str            # {port} in it is replaced
    dialect: str = "chat"
    tool: str = ""          # what has to be installed


SERVERS = [
    Server("final", f"{PROGRAMS}/chatsrv -n {{port}}"),
    Server("step 6", f"{PROGRAMS}/step6 {{port}}"),
    Server("floor", f"{PROGRAMS}/floor {{port}}"),
    Server("redis", "redis-server --bind 127.0.0.1 --port {port} --save ''"
                    " --appendonly no --maxclients 15000"
                    " --client-output-buffer-limit 'pubsub 0 0 0'",
           "redis", "redis-server"),
    Server("nats", "nats-server -a 127.0.0.1 -p {port}", "nats", "nats-server"),
]
OWN = ["final", "step 6", "floor"]
ALL = [*OWN, "redis", "nats", "peer"]


def servers_here() -> List[Server]:
    here = [server for server in SERVERS if not server.tool or shutil.which(server.tool)]
    for server in SERVERS:
        if server not in here:
            print(f"absent: {server.tool} is not installed")
    if os.environ.get("PEER"):
        here.append(Server("peer", os.environ["PEER"]))
    else:
        print("absent: peer (PEER='CMD {port}' names one)")
    return here


# ---- What is measured ------------------------------------------------------------------

class Goal(NamedTuple):
    """The ratio of two servers, or of two lines for one, or a figure, is at most this."""
    limit: float
    over: str
    under: str = ""         # a server; "": the figure itself counts
    base: str = ""          # the options of the line that stands below; "": the same line


class Case(NamedTuple):
    name: str
    options: str            # for chatload
    figure: str             # the key of the result that goes into the table
    unit: str = "ns"
    scale: float = 1        # from the figure to the unit
    share: bool = False     # do server and tester share a processor?
    servers: List[str] = ALL
    goals: List[Goal] = []
    series: str = ""        # the curve to which it belongs; "": it is a line of the table
    x: int = 0              # its place on the curve


SLOW = "-m slow -b 1000 -w 32"


def cost(name: str, options: str, **more: object) -> Case:
    """What a delivery costs the server."""
    return Case(f"CPU a delivery: {name}", options, "server_cpu_ns_per_delivery",
                share=True, **more)


def table_cases() -> Iterator[Case]:
    """The lines of the table."""
    few = 5 if QUICK else 1     # so many times fewer messages
    yield cost("100 clients, 64 bytes, window 1", f"-c 100 -b 64 -w 1 -n {1600 // few}",
               goals=[Goal(1.15, "final", "floor")])
    yield cost("100 clients, 64 bytes, window 32",
               f"-c 100 -b 64 -w 32 -n {16000 // few}",
               goals=[Goal(1.15, "final", "floor"), Goal(1 / 2, "final", "redis")])
    yield cost("100 clients, 1,000 bytes, window 1",
               f"-c 100 -b 1000 -w 1 -n {1600 // few}",
               goals=[Goal(1.3, "final", "floor")])
    yield cost("100 clients, 1,000 bytes, window 32",
               f"-c 100 -b 1000 -w 32 -n {8000 // few}",
               goals=[Goal(1.3, "final", "floor")])
    yield cost("1,000 clients, 100 of them send, 64 bytes, window 200",
               f"-c 1000 -s 100 -b 64 -w 200 -n {400 if QUICK else 800}",
               goals=[Goal(1 / 6, "final", "redis")])
    alone = f"{SLOW} -c 100 -k 0 -u 2000 -n 6000"
    yield cost("100 clients, 1,000 bytes, window 32, after a warm-up", alone,
               servers=["final"])
    yield cost("the same beside 1,000 stalled clients",
               f"{SLOW} -c 100 -k 1000 -u 2000 -n 6000", servers=["final"],
               goals=[Goal(1.1, "final", "final", alone)])
    yield Case("memory for 1,000 stalled clients that lag 25 MB",
               f"{SLOW} -c 10 -k 1000 -n 25000", "server_memory_growth", "MiB", 2 ** -20,
               servers=["final"], goals=[Goal(24, "final")])
    held = 4000 if QUICK else 10000
    yield Case(f"connections a second: {held:,} are held",
               f"-m hold -c {held} -w 32 -i 0.5", "connections_per_second", "",
               servers=OWN if QUICK else ALL, goals=[Goal(35 / 17, "floor", "final")])
    yield Case("memory a connection", "", "server_bytes_per_connection", "bytes",
               goals=[Goal(256, "final")])
    yield Case("CPU while idle", "", "server_cpu_us_idle", "us",
               goals=[Goal(2000, "final")])
    yield Case("connections a second: each leaves when greeted",
               f"-m churn -w 32 -n {8000 // few}", "connections_per_second", "")
    yield Case("latency at 500 messages a second, 100 clients: p50",
               f"-m latency -c 100 -r 500 -n {500 // few}", "latency_us_p50", "us")
    yield Case("p99", "", "latency_us_p99", "us")
    yield Case("p99.9", "", "latency_us_p99.9", "us")
    yield Case("maximum", "", "latency_us_max", "us")


def curve_cases() -> Iterator[Case]:
    """The points of the curves in notes/plots/."""
    for clients in 10, 30, 100, 300, 1000, 3000, 10000:
        yield cost("", f"-c {clients} -b 64 -w 32 -n {max(100, 400000 // clients)}",
                   series="cost by clients", x=clients)
        yield Case("", f"-m hold -c {clients} -i 0", "server_bytes_per_connection", "MiB",
                   clients / 2 ** 20, series="memory by connections", x=clients)
    for window in 1, 2, 4, 8, 16, 32, 64, 128, 256:
        yield cost("", f"-c 100 -b 64 -w {window} -n {1000 + 50 * window}",
                   series="cost by window", x=window)
    for stalled in 1, 3, 10, 30, 100, 300, 1000:
        # The others keep all that such a client has not read, for each one.
        yield Case("", f"{SLOW} -c 10 -k {stalled} -n 5000", "server_memory_growth",
                   "MiB", 2 ** -20, series="memory by stalled clients", x=stalled,
                   servers=["final"] if stalled > 100 else ["final", "step 6", "redis"])
    for idle in 1, 10, 100, 1000, 10000:
        for figure in "evloop_ns_per_event", "poll_ns_per_event":
            yield Case("", f"-m events -c {idle} -n 1000", figure, "us", 0.001,
                       servers=[""], series="cost of an event by idle ones", x=idle)


# ---- Building and running --------------------------------------------------------------

def build() -> None:
    """Compiles with the Makefile's own flags. The paths are seen from tests/."""
    BUILD.mkdir(parents=True, exist_ok=True)
    flags = subprocess.run([MAKE, "-s", "flags"], cwd=ROOT, check=True,
                           stdout=subprocess.PIPE, universal_newlines=True)
    compiler, link = flags.stdout.splitlines()[-2:]
    folder = "../build/bench"
    script = f"""set -e
        {compiler} -o {folder}/chatload load/chatload*.c {link}
        {compiler} -o {folder}/floor load/floor.c {link}
        {compiler} -o {folder}/step6 ../steps/6-broadcast.c {link}
        cd ../final
        {MAKE} -s B={folder} COMPILE={shlex.quote(compiler)} LINK={shlex.quote(link)} \\
            {folder}/chatsrv"""
    subprocess.run(["sh", "-c", script], cwd=ROOT / "tests", check=True)


def on_processor(which: int) -> Optional[Callable[[], None]]:
    """Returns what a process calls to stay on its first (0) or last (-1) processor."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    processor = sorted(os.sched_getaffinity(0))[which]
    return lambda: os.sched_setaffinity(0, {processor})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A server while it runs: `with Running(server) as running`."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> "Running":
        for _ in range(ATTEMPTS):
            self.port = free_port()
            self.process = subprocess.Popen(
                shlex.split(self.server.command.format(port=self.port)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, preexec_fn=on_processor(0))
            if self.answers():
                return self
            self.__exit__()
        raise RuntimeError("it does not accept connections")

    def answers(self) -> bool:
        """Waits until the server accepts connections; False if it does not."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
                return True
            except OSError:
                time.sleep(0.01)
        return False

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def prefix(self) -> str:
        """Returns what the server puts before a message."""
        if self.server.dialect != "chat":
            return ""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            lines = client.makefile("rb")
            lines.readline()
            client.sendall(b"probe\n")
            return lines.readline()[:-len(b"probe\n")].decode(errors="replace")


def chatload(arguments: List[str], processor: int) -> Dict[str, object]:
    """Runs the tester. Returns its figures; what it complained of as `failed`."""
    run = subprocess.run([str(BUILD / "chatload"), *arguments], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, universal_newlines=True,
                         timeout=PATIENCE, preexec_fn=on_processor(processor))
    if run.returncode != 0:
        return {"failed": run.stderr.strip()}
    pairs = (pair.split("=", 1) for pair in run.stdout.split()[1:])
    return {key: float(value) for key, value in pairs if value.strip("-")[0].isdigit()}


def measure(server: Optional[Server], case: Case) -> Dict[str, object]:
    """One run: starts the server, loads it, stops it. No server: chatload alone."""
    processor = 0 if case.share else -1
    if not server:
        return chatload(case.options.split(), processor)
    try:
        with Running(server) as running:
            prefix = running.prefix()
            arguments = [*case.options.split(), "-d", server.dialect]
            if prefix:
                arguments += ["-x", prefix]
            if platform.system() == "Linux":
                arguments += ["-p", str(running.process.pid)]
            return chatload([*arguments, str(running.port)], processor)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)}


def run_rounds(cases: Iterable[Case], servers: List[Server], rounds: int) -> List[dict]:
    """Runs each load as often as there are rounds, the servers in turn."""
    by_name: Dict[str, Optional[Server]] = {server.name: server for server in servers}
    by_name[""] = None
    loads = {case.options: case for case in cases if case.options}
    runs = []
    for turn in range(rounds):
        for number, case in enumerate(loads.values()):
            show(f"round {turn + 1} of {rounds}, load {number + 1} of {len(loads)}")
            for name in case.servers:
                if name in by_name:
                    result = measure(by_name[name], case)
                    runs.append(dict(result, server=name, round=turn, load=case.options))
    show("")
    return runs


def show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# ---- The figures -----------------------------------------------------------------------

class Figures:
    """What the runs say of the cases."""

    def __init__(self, runs: List[dict]) -> None:
        self.runs = runs

    def values(self, case: Case, server: str) -> Dict[int, float]:
        """Returns round: value, scaled to the case's unit."""
        return {run["round"]: run[case.figure] * case.scale for run in self.runs
                if (run["load"], run["server"]) == (case.options, server)
                and case.figure in run}

    def median(self, case: Case, server: str) -> Optional[float]:
        values = self.values(case, server)
        return statistics.median(values.values()) if values else None

    def ratio(self, case: Case, goal: Goal) -> Optional[float]:
        base = case._replace(options=goal.base or case.options)
        above, below = self.values(case, goal.over), self.values(base, goal.under)
        ratios = [above[turn] / below[turn] for turn in above if below.get(turn)]
        return statistics.median(ratios) if ratios else None

    def reached(self, case: Case, goal: Goal) -> str:
        value = (self.ratio(case, goal) if goal.under else self.median(case, goal.over))
        if value is None:
            return ""
        what = (f"{goal.over} : without" if goal.base else
                f"{goal.over} : {goal.under}" if goal.under else goal.over)
        verdict = "" if value <= goal.limit else ", **missed**"
        return f"{what} = {value:.3g} (at most {goal.limit:.3g}{verdict})"

    def failures(self) -> List[str]:
        said = {(run["server"], run["load"]): run["failed"] for run in self.runs
                if "failed" in run}
        return [f"{server} ({load}): {why}" for (server, load), why in said.items()]


def inherit_loads(cases: Iterable[Case]) -> List[Case]:
    """A case without options is a further figure of the one before."""
    whole: List[Case] = []
    for case in cases:
        if not case.options:
            case = case._replace(options=whole[-1].options, servers=whole[-1].servers)
        whole.append(case)
    return whole


def table(cases: List[Case], servers: List[str], figures: Figures) -> str:
    """Returns the table in Markdown."""
    def cell(case: Case, server: str) -> str:
        value = figures.median(case, server)
        if value is None:
            return "-"
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    rows = [["what", *servers, "goals"]]
    for case in cases:
        name = f"{case.name}, {case.unit}" if case.unit else case.name
        goals = [figures.reached(case, goal) for goal in case.goals]
        rows.append([name, *(cell(case, server) for server in servers),
                     "; ".join(goal for goal in goals if goal)])
    rows.insert(1, ["---", *("---:" for _ in servers), "---"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine() -> Dict[str, object]:
    return {"system": f"{platform.system()} {platform.release()}",
            "processor": processor_name(), "processors": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d")}


def processor_name() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in text.splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.machine()


Curves = Dict[str, Dict[str, List[List[float]]]]    # series: line: points


def curves(cases: List[Case], figures: Figures) -> Curves:
    """Returns all points, in the cases' units."""
    found: Curves = {}
    for case in cases:
        for server in case.servers:
            value = figures.median(case, server)
            if value is not None:
                line = server or case.figure.split("_")[0]
                points = found.setdefault(case.series, {}).setdefault(line, [])
                points.append([case.x, value])
    return found


def main() -> int:
    if len(sys.argv) > 1:
        print(__doc__)
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20000)), hard))
    build()
    servers = servers_here()
    cases = inherit_loads(table_cases())
    figures = Figures(run_rounds(cases, servers, ROUNDS))
    text = table(cases, [server.name for server in servers], figures)
    print(text, *figures.failures(), sep="\n")
    results = {"machine": machine(), "rounds": ROUNDS, "table": text,
               "runs": figures.runs}
    if not QUICK:
        sweep = list(curve_cases())
        results["curves"] = curves(sweep, Figures(run_rounds(sweep, servers, 3)))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(run["server"] in ("final", "floor") for run in figures.runs
                    if "failed" in run) else 0


if __name__ == "__main__":
    sys.exit(main())
