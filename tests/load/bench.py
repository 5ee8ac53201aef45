#!/usr/bin/env python3
"""Measures the server against a yardstick, a step, and other servers that are installed.

    make bench                       all, with curves for notes/plots/: half an hour
    make bench QUICK=1               the table only, with fewer rounds: under a minute
    make bench PEER='CMD {port}'     with one more chat server: it greets with `Welcome`
    make bench ROUNDS=3              with that many rounds for the table instead of seven

What is compared:
  final    final/chatsrv -n: without the prefix, so that all send the same bytes
  step 6   steps/6-broadcast.c
  floor    tests/load/floor.c, the least that such a server can do
  redis    redis-server, publish and subscribe;    if installed
  nats     nats-server, likewise;                  if installed
  room     final -j on a redis-server of its own;  if installed
  peer     the command in PEER;                    if given

Every run starts its server anew on a free port of 127.0.0.1, logging to /dev/null, and
stops it. The servers take turns, in another order each time; what is short, or differs
much from run to run, has several turns in a round. The table shows the medians of all
runs. A ratio is the median of the ratios of runs that were neighbours, since whatever
disturbs the machine affects neighbours alike; if the ratio of the table's medians differs
from it by more than 5 %, that ratio is shown too.

Behind a ratio stands how sure it is: "1.02 (0.99 to 1.05)" says that with a probability
of 90 % the median of endlessly many runs would lie there. A goal counts as missed if all
of that is beyond it, and as open if only the median is. Two rounds are too few to tell.

The cost of a delivery is the server's own CPU time; wall time would be noise. For that
measurement server and tester share one processor, and take turns there: each does all
the work that waits and then lets the other go on (root's real-time scheduling sees to
that; as a user, they only do not interrupt each other when they wake), neither pays for
waking a sleeping processor, and whatever else the machine does can run on another. For
rates and latencies each has its own.

All results go to build/bench.json. Exit code 1 if final or the floor failed in a run.
"""
import contextlib
import json
import math
import os
import pathlib
import platform
import random
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import test                 # tests/test.py, not Python's own

BUILD = ROOT / "build" / "bench"
PROGRAMS = shlex.quote(str(BUILD))    # as a part of a command: its path may have spaces
RESULTS = ROOT / "build" / "bench.json"
MAKE = os.environ.get("MAKE") or "make"
QUICK = bool(os.environ.get("QUICK"))
ROUNDS = int(os.environ.get("ROUNDS") or (2 if QUICK else 7))
CURVE_ROUNDS = 3
PATIENCE = 120              # seconds for a run that takes a few
ATTEMPTS = 3                # to start a server: another program may take the port first
CONNECTIONS_MAX = 100000    # to try, if the limit of descriptors allows them
SPARE_DESCRIPTORS = 100     # what server and tester need besides


# ---- The servers -----------------------------------------------------------------------

class Contender(NamedTuple):
    """A server that takes part; Running is one that runs."""
    name: str
    command: str            # {port} in it is replaced, and {options} by a case's
    dialect: str = "chat"
    tool: str = ""          # what has to be installed
    broker: str = ""        # the server that it needs; {broker} is that one's port


SERVERS = [
    Contender("final", f"{PROGRAMS}/chatsrv {{options}} {{port}}"),
    Contender("step 6", f"{PROGRAMS}/step6 {{port}}"),
    Contender("floor", f"{PROGRAMS}/floor {{port}}"),
    Contender("redis", "redis-server --bind 127.0.0.1 --port {port} --save ''"
                       " --appendonly no --maxclients 15000"
                       " --client-output-buffer-limit 'pubsub 0 0 0'",
              "redis", "redis-server"),
    Contender("nats", "nats-server -a 127.0.0.1 -p {port}", "nats", "nats-server"),
    Contender("room", f"{PROGRAMS}/chatsrv -j redis://127.0.0.1:{{broker}}/bench"
                      " {options} {port}", "chat", "redis-server", "redis"),
]
OWN = ["final", "step 6", "floor"]
ALL = [*OWN, "redis", "nats", "room", "peer"]


def servers_here() -> List[Contender]:
    here = [server for server in SERVERS if not server.tool or shutil.which(server.tool)]
    for server in SERVERS:
        if server not in here:
            print(f"absent: {server.tool} is not installed")
    if os.environ.get("PEER"):
        here.append(Contender("peer", os.environ["PEER"]))
    else:
        print("absent: peer (PEER='CMD {port}' names one)")
    return here


# ---- What is measured ------------------------------------------------------------------

class Load(NamedTuple):
    """The options of chatload and of final."""
    chatload: str
    final: str = "-n"


class Goal(NamedTuple):
    """The upper limit of a figure, or of its ratio between two servers or two lines."""
    limit: float
    over: str
    under: str = ""         # a server; "": the figure itself counts
    base: Optional[Load] = None     # the line that stands below; None: the same line


class Case(NamedTuple):
    name: str
    load: Optional[Load]    # None: a further figure of the case before
    figure: str             # the key of the result that goes into the table
    unit: str = "ns"
    scale: float = 1        # from the figure to the unit
    share: bool = False     # do server and tester share a processor?
    servers: List[str] = ALL
    goals: List[Goal] = []
    times: int = 1          # how often it is run in a round
    series: str = ""        # the curve to which it belongs; "": it is a line of the table
    x: int = 0              # its place on the curve


def cost(name: str, options: str, final: str = "-n", **more: object) -> Case:
    """What a delivery costs the server."""
    return Case(f"CPU per delivery: {name}", Load(options, final),
                "server_cpu_ns_per_delivery", share=True, **more)


FEW = 5 if QUICK else 1     # how many times fewer messages


def often(times: int) -> int:
    return 1 if QUICK else times


def cost_cases() -> Iterator[Case]:
    """What a delivery costs."""
    for length, window, messages, limit in ((64, 1, 500, 1.08), (64, 32, 16000, 1.1),
                                            (1000, 1, 500, 1.08), (1000, 32, 8000, 1.08)):
        yield cost(f"100 clients, {length:,} bytes, window {window}",
                   f"-c 100 -b {length} -w {window} -n {messages // (2 if QUICK else 1)}",
                   times=often(3), goals=[Goal(limit, "final", "floor")])
    for length in 64, 1000:
        as_long = f"-c 100 -b {length + len(ADDRESS)} -w 32 -n {16000 // FEW}"
        yield cost(f"100 clients, {length + len(ADDRESS):,} bytes, window 32", as_long,
                   servers=["floor"], times=often(3))
        yield cost(f"{length:,} bytes and the sender's address, {len(ADDRESS)} more",
                   f"-c 100 -b {length} -w 32 -n {16000 // FEW}", "", servers=["final"],
                   times=often(3), goals=[Goal(1.15, "final", "floor", Load(as_long))])


def many_senders_cases() -> Iterator[Case]:
    """What a delivery costs where everybody gets much at a time from many. The kernel
    takes half as much again for the first batches: hence the warm-up."""
    name = "1,000 clients, 100 of them send, 64 bytes, window 200"
    load = "-c 1000 -s 100 -b 64 -w 200 -u 2000 -t 60"
    goals = [Goal(1 / 5, "final", "redis"), Goal(1.1, "room", "final")]
    if QUICK:
        yield cost(name, f"{load} -n 6000", servers=["final", "redis"], goals=goals)
    else:
        yield cost(name, f"{load} -n 2000", goals=goals)
        yield cost("the same, three times as long", f"{load} -n 6000",
                   servers=["final", "redis", "nats", "room"], goals=goals)


ADDRESS = "127.0.0.1: "
SLOW = "-m slow -b 1000 -w 32"


def stalled_cases() -> Iterator[Case]:
    """What clients that never read cost."""
    messages = 1000 if QUICK else 6000
    alone = f"{SLOW} -c 100 -k 0 -u 1000 -n {messages}"
    yield cost("100 clients, 1,000 bytes, window 32, after a warm-up", alone,
               servers=["final"])
    yield cost("the same beside 1,000 stalled clients",
               f"{SLOW} -c 100 -k 1000 -u 1000 -n {messages}", servers=["final"],
               goals=[Goal(1.1, "final", "final", Load(alone))])
    yield Case("memory for 1,000 stalled clients that lag 25 MB",
               Load(f"{SLOW} -c 10 -k 1000 -n 25000"), "server_memory_growth", "MiB",
               2 ** -20, servers=["final"], goals=[Goal(24, "final")])


def connection_cases() -> Iterator[Case]:
    """What connections cost."""
    held = 4000 if QUICK else 10000
    yield Case(f"connections per second: {held:,} are held",
               Load(f"-m hold -c {held} -w 32 -i 0.5"), "connections_per_second", "",
               servers=OWN if QUICK else ALL, goals=[Goal(1, "floor", "final")],
               times=often(3))
    yield Case("CPU per connection", None, "server_cpu_ns_per_connection")
    yield Case("memory per connection", None, "server_bytes_per_connection", "bytes",
               goals=[Goal(256, "final")])
    yield Case("CPU while idle for half a second", None, "server_cpu_us_idle", "us",
               goals=[Goal(2000, "final")])
    yield Case("connections per second: each leaves when greeted",
               Load(f"-m churn -w 32 -n {8000 // FEW}"), "connections_per_second", "",
               servers=OWN if QUICK else ALL, goals=[Goal(1, "floor", "final")],
               times=often(4))
    yield Case("CPU per connection", None, "server_cpu_ns_per_connection")


def crowd_cases(connections: int) -> Iterator[Case]:
    """As many connections as the system allows."""
    yield Case(f"connections per second: {connections:,} are held",
               Load(f"-m hold -c {connections} -w 32 -i 0.5 -t 60"),
               "connections_per_second", "", servers=["final", "floor"])
    yield Case("CPU per connection", None, "server_cpu_ns_per_connection")
    yield Case("CPU per connection, for the last tenth", None,
               "server_cpu_ns_per_late_connection")
    yield Case("memory per connection, in the server", None,
               "server_bytes_per_connection", "bytes")
    yield Case("memory per connection, in the kernel, for both ends", None,
               "kernel_bytes_per_connection", "bytes")
    yield Case("CPU while idle for half a second", None, "server_cpu_us_idle", "us")
    yield Case(f"time until a message has reached all {connections:,}",
               Load(f"-c {connections} -w 1 -u 2 -n 5 -t 60"), "us_per_message", "ms",
               0.001, servers=["final", "floor"])
    yield Case("CPU per delivery", None, "server_cpu_ns_per_delivery")


def latency_cases(name: str, options: str, final: str = "-n", **more: object
                  ) -> Iterator[Case]:
    """How long deliveries take at a fixed rate. A pause of the machine counts against all
    messages that were due in it: many short runs, since few of them have one."""
    goals: List[Goal] = more.pop("goals", [])
    yield Case(f"latency: {name}: p50", Load(f"-m latency {options}", final),
               "latency_us_p50", "us", times=often(6), **more)
    yield Case("p99", None, "latency_us_p99", "us", goals=goals)
    yield Case("p99.9", None, "latency_us_p99.9", "us")


def all_latency_cases() -> Iterator[Case]:
    """Alone, then beside clients that misbehave."""
    goals = [Goal(1.15, "final", "floor"), Goal(1, "final", "redis"),
             Goal(1, "final", "nats")]
    servers = ["final", "floor", "redis", "nats"] if QUICK else ALL
    yield from latency_cases("100 clients, 1,000 messages per second",
                             f"-c 100 -r 1000 -u 100 -n {800 if QUICK else 1000}",
                             goals=goals, servers=servers)
    yield from latency_cases("1,000 clients, 200 messages per second",
                             f"-c 1000 -r 200 -u 20 -n {160 if QUICK else 200}",
                             goals=goals, servers=servers)
    # With -r everybody may say 20 messages per second; of a hundred, each says ten.
    many = f"-c 100 -s 100 -r 1000 -u 100 -n {400 if QUICK else 1000}"
    limited = "-n -r 20"
    alone = Load(f"-m latency {many}", limited)
    yield from latency_cases("100 clients who all send, chatsrv -r 20", many, limited,
                             servers=["final"])
    yield from latency_cases("the same beside 100 that never read", f"{many} -k 100",
                             limited, servers=["final"],
                             goals=[Goal(1.5, "final", "final", alone)])
    yield from latency_cases("the same, and one floods", f"{many} -k 100 -f 1", limited,
                             servers=["final"],
                             goals=[Goal(1.5, "final", "final", alone)])
    yield from latency_cases("the same, one floods, without -r", f"{many} -k 100 -f 1",
                             servers=["final"])


def table_cases(connections: int) -> Iterator[Case]:
    """The lines of the table."""
    yield from cost_cases()
    yield from many_senders_cases()
    yield from stalled_cases()
    yield from connection_cases()
    if not QUICK:
        yield from crowd_cases(connections)
    yield from all_latency_cases()


def curve_cases() -> Iterator[Case]:
    """The points of the curves in notes/plots/, and of the table of what grows."""
    for clients in 10, 30, 100, 300, 1000, 3000, 10000:
        yield cost("", f"-c {clients} -b 64 -w 32 -n {max(100, 400000 // clients)}",
                   series="cost by clients", x=clients)
        hold = Load(f"-m hold -c {clients} -i 0")
        yield Case("", hold, "server_bytes_per_connection", "MiB", clients / 2 ** 20,
                   series="memory by connections", x=clients)
        if clients >= 100:
            yield Case("", hold, "server_cpu_ns_per_late_connection", servers=OWN,
                       series="cost of an accept by connections", x=clients)
    for window in 1, 2, 4, 8, 16, 32, 64, 128, 256:
        yield cost("", f"-c 100 -b 64 -w {window} -n {1000 + 50 * window}",
                   series="cost by window", x=window)
    for senders in 1, 3, 10, 30, 100:
        yield cost("", f"-c 100 -s {senders} -w 100 -n 8000", servers=["final"],
                   series="cost by senders", x=senders)
    for length in 16, 64, 256, 1024:
        yield cost("", f"-c 100 -b {length} -w 32 -n 6000", servers=["final", "floor"],
                   series="cost by length", x=length)
    for stalled in 1, 10, 100, 1000:
        yield cost("", f"{SLOW} -c 100 -k {stalled} -u 1000 -n 3000", servers=["final"],
                   series="cost by stalled clients", x=stalled)
    for listeners, where in (1, "-n -l 127.0.0.1"), (2, "-n"):
        yield cost("", "-c 100 -w 1 -n 1600", where, servers=["final"],
                   series="cost by listeners", x=listeners)
    for stalled in 1, 3, 10, 30, 100, 300, 1000:
        # The others keep all that such a client has not read, for each one.
        yield Case("", Load(f"{SLOW} -c 10 -k {stalled} -n 5000"), "server_memory_growth",
                   "MiB", 2 ** -20, series="memory by stalled clients", x=stalled,
                   servers=["final"] if stalled > 100 else ["final", "step 6", "redis"])
    for idle in 1, 10, 100, 1000, 10000:
        for figure in "evloop_ns_per_event", "poll_ns_per_event":
            yield Case("", Load(f"-m events -c {idle} -n 1000"), figure, "us", 0.001,
                       servers=[""], series="cost of an event by idle ones", x=idle)


# ---- Building and running --------------------------------------------------------------

def build() -> None:
    """Compiles with the Makefile's own flags. Paths are relative to tests/."""
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


def descriptors_raise() -> int:
    """Raises the limit for all connections, as far as possible; returns it."""
    wanted = CONNECTIONS_MAX + SPARE_DESCRIPTORS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (OSError, ValueError):
            print(f"only {hard:,} descriptors: the limit cannot be raised")
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def on_processor(which: int, shared: bool = False) -> Optional[Callable[[], None]]:
    """Returns what pins a process to its first (0) or last (-1) processor; there, it
    takes turns with another one if they share it."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    processor = sorted(os.sched_getaffinity(0))[which]

    def pin() -> None:
        os.sched_setaffinity(0, {processor})
        if shared:
            take_turns()
    return pin


def take_turns() -> None:
    """From now on, no other process that has called this stops the calling one before it
    waits for something (as a user: not at once when it wakes)."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class Running:
    """A server while it runs: `with Running(server, load) as running`."""

    def __init__(self, server: Contender, load: Load, broker: int = 0,
                 processor: int = 0, shared: bool = False) -> None:
        self.server, self.load, self.broker = server, load, broker
        self.place = on_processor(processor, shared)

    def __enter__(self) -> "Running":
        for _ in range(ATTEMPTS):
            self.port = test.free_port()
            self.process = subprocess.Popen(
                shlex.split(self.server.command.format(
                    port=self.port, options=self.load.final, broker=self.broker)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, preexec_fn=self.place)
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


def start(stack: contextlib.ExitStack, server: Contender, case: Case) -> Running:
    """Starts a server; before it the broker that it needs, where the tester is not."""
    broker = 0
    if server.broker:
        its = next(each for each in SERVERS if each.name == server.broker)
        processor = -1 if case.share else 0
        broker = stack.enter_context(Running(its, case.load, processor=processor)).port
    return stack.enter_context(Running(server, case.load, broker, shared=case.share))


def chatload(arguments: List[str], processor: int, shared: bool = False
             ) -> Dict[str, object]:
    """Runs the tester. Returns its figures, or its complaint as `failed`."""
    run = subprocess.run([str(BUILD / "chatload"), *arguments], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, universal_newlines=True,
                         timeout=PATIENCE, preexec_fn=on_processor(processor, shared))
    if run.returncode != 0:
        return {"failed": run.stderr.strip()}
    pairs = (pair.split("=", 1) for pair in run.stdout.split()[1:])
    return {key: float(value) for key, value in pairs if value.strip("-")[0].isdigit()}


def measure(server: Optional[Contender], case: Case) -> Dict[str, object]:
    """One run: starts the server, loads it, stops it. No server: chatload alone."""
    processor = 0 if case.share else -1
    if not server:
        return chatload(case.load.chatload.split(), processor)
    try:
        with contextlib.ExitStack() as stack:
            running = start(stack, server, case)
            prefix = running.prefix()
            arguments = [*case.load.chatload.split(), "-d", server.dialect]
            if prefix:
                arguments += ["-x", prefix]
            if platform.system() == "Linux":
                arguments += ["-p", str(running.process.pid)]
            return chatload([*arguments, str(running.port)], processor, case.share)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)}


def run_rounds(cases: Iterable[Case], servers: List[Contender],
               rounds: int) -> List[dict]:
    """Runs all loads, the servers in turn; in another order each time, since to come
    first, or after a certain other one, may be a disadvantage."""
    by_name: Dict[str, Optional[Contender]] = {server.name: server for server in servers}
    by_name[""] = None
    loads: Dict[Load, Case] = {}
    for case in cases:
        loads.setdefault(case.load, case)
    runs = []
    for turn in range(rounds):
        for number, case in enumerate(loads.values()):
            show(f"round {turn + 1} of {rounds}, load {number + 1} of {len(loads)}")
            for again in range(turn * case.times, (turn + 1) * case.times):
                for name in random.Random(again).sample(case.servers, len(case.servers)):
                    if name in by_name:
                        begun = time.monotonic()
                        result = measure(by_name[name], case)
                        runs.append(dict(result, server=name, turn=again,
                                         load=list(case.load),
                                         took=round(time.monotonic() - begun, 3)))
    show("")
    return runs


def show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# ---- The figures -----------------------------------------------------------------------

def between(values: List[float]) -> Optional[Tuple[float, float]]:
    """Between which two of the values the median of endlessly many lies, with at least
    90 %: each value is as likely above it as below. None: there are too few values."""
    count, outside, rank = len(values), 0.0, 0
    ways = 1                # in which `rank` of them can lie below the median
    while True:
        outside += 2 * ways / 2 ** count
        if outside > 0.1:
            break
        ways = ways * (count - rank) // (rank + 1)
        rank += 1
    return (sorted(values)[rank - 1], sorted(values)[-rank]) if rank else None


class Figures:
    """What the runs say about the cases."""

    def __init__(self, runs: List[dict]) -> None:
        self.runs = runs

    def values(self, case: Case, server: str) -> Dict[int, float]:
        """Returns {turn: value}, scaled to the case's unit."""
        return {run["turn"]: run[case.figure] * case.scale for run in self.runs
                if (run["load"], run["server"]) == (list(case.load), server)
                and case.figure in run}

    def median(self, case: Case, server: str) -> Optional[float]:
        values = self.values(case, server)
        return statistics.median(values.values()) if values else None

    def ratios(self, case: Case, goal: Goal) -> List[float]:
        """Returns the ratio of each turn."""
        base = case._replace(load=goal.base or case.load)
        above, below = self.values(case, goal.over), self.values(base, goal.under)
        return [above[turn] / below[turn] for turn in above if below.get(turn)]

    def reached(self, case: Case, goal: Goal) -> str:
        """Says how far a goal is reached; "" if a server is absent."""
        if not goal.under:
            values = list(self.values(case, goal.over).values())
            what, remarks = goal.over, []
        else:
            values = self.ratios(case, goal)
            what = f"{goal.over} : {'without' if goal.over == goal.under else goal.under}"
            remarks = self.remarks(case, goal, values)
        if not values:
            return ""
        value, sure = statistics.median(values), between(values)
        verdict = ("" if value <= goal.limit else
                   ", **open**" if sure and sure[0] <= goal.limit else ", **missed**")
        remarks.append(f"at most {goal.limit:.3g}{verdict}")
        return f"{what} = {value:.3g} ({'; '.join(remarks)})"

    def remarks(self, case: Case, goal: Goal, ratios: List[float]) -> List[str]:
        """Returns how sure a ratio is, and that of the medians if it is another."""
        sure, said = between(ratios), []
        if sure:
            said.append(f"{sure[0]:.3g} to {sure[1]:.3g}")
        above = self.median(case, goal.over)
        below = self.median(case._replace(load=goal.base or case.load), goal.under)
        if ratios and abs(above / below / statistics.median(ratios) - 1) > 0.05:
            said.append(f"of the medians {above / below:.3g}")
        return said

    def failures(self) -> List[str]:
        said = {(run["server"], run["load"][0]): run["failed"] for run in self.runs
                if "failed" in run}
        return [f"{server} ({load}): {why}" for (server, load), why in said.items()]


def inherit_loads(cases: Iterable[Case]) -> List[Case]:
    """A case without a load is a further figure of the one before."""
    whole: List[Case] = []
    for case in cases:
        if case.load is None:
            before = whole[-1]
            case = case._replace(load=before.load, servers=before.servers,
                                 share=before.share)
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


def exponent(points: List[List[float]]) -> float:
    """Returns e of the power law y = c * x ** e that fits best: 0 if y does not grow."""
    logs = [(math.log(x), math.log(y)) for x, y in points if y > 0]
    x_mean, y_mean = (statistics.mean(column) for column in zip(*logs))
    return (sum((x - x_mean) * (y - y_mean) for x, y in logs)
            / sum((x - x_mean) ** 2 for x, _ in logs))


def growth(found: "Curves") -> str:
    """Returns in Markdown how the figures of final and the floor grow on the curves."""
    rows = [["what grows with what", "server", "from", "to", "exponent"],
            ["---", "---", "---", "---", "---:"]]
    for series, lines in found.items():
        for name in "final", "floor", "evloop", "poll":
            points = lines.get(name, [])
            if sum(y > 0 for _, y in points) >= 2:
                ends = [f"{y:.4g} at {x:,}" for x, y in (points[0], points[-1])]
                rows.append([series, name, *ends, f"{exponent(points):.2f}"])
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # stops its server, too
    connections = descriptors_raise() - SPARE_DESCRIPTORS
    build()
    servers = servers_here()
    cases = inherit_loads(table_cases(connections))
    figures = Figures(run_rounds(cases, servers, ROUNDS))
    text = table(cases, [server.name for server in servers], figures)
    print(text, *figures.failures(), sep="\n")
    results = {"machine": machine(), "rounds": ROUNDS, "table": text,
               "runs": figures.runs}
    if not QUICK:
        sweep = list(curve_cases())
        found = curves(sweep, Figures(run_rounds(sweep, servers, CURVE_ROUNDS)))
        results.update(curves=found, growth=growth(found))
        print("", results["growth"], sep="\n")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(run["server"] in ("final", "floor") for run in figures.runs
                    if "failed" in run) else 0


if __name__ == "__main__":
    sys.exit(main())
