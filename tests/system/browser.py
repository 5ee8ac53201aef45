"""A headless Chromium, driven through chromedriver: what the tests of web pages share."""
import atexit
import base64
import contextlib
import functools
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from typing import Any, Dict, Iterator, List

from support import free_ports

QUIET = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
INSTALLED = bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser:
    """One window."""

    def __init__(self) -> None:
        atexit.register(self.close)         # an interrupted test does not close it
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        try:
            self.port = self.driver_port()
            options = {"args": [*QUIET, f"--user-data-dir={self.profile}"],
                       "binary": shutil.which("chromium")}
            logs = {"browser": "ALL", "performance": "ALL"}
            self.session = "/session/" + self.call("POST", "/session", {"capabilities": {
                "alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options,
                                "goog:loggingPrefs": logs}}})["sessionId"]
        except BaseException:
            self.close()
            raise

    def driver_port(self) -> int:
        """Starts chromedriver. (Told to pick a port, it says which only where there is
        IPv6.) Another program may take the port before it does."""
        for _ in range(10):
            port, = free_ports(1)
            self.driver = subprocess.Popen(
                ["chromedriver", f"--port={port}"], stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
                universal_newlines=True)
            for line in self.driver.stdout:
                if "successfully on port" in line:
                    return port
            self.driver.stdout.close()
            self.driver.wait()
        raise OSError("chromedriver does not start")

    def close(self) -> None:
        atexit.unregister(self.close)
        with contextlib.suppress(OSError, AttributeError, KeyError, RuntimeError):
            self.call("DELETE", self.session)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.stdout.close()
        self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{value['error']}: {value['message']}")
        return value

    def open(self, url: str) -> None:
        self.call("POST", self.session + "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.call("POST", self.session + "/execute/sync",
                         {"script": script, "args": arguments})

    def wait_for(self, script: str, *arguments: Any, deadline: float = 30) -> Any:
        """Runs the script until what it returns is true."""
        end = time.monotonic() + deadline
        while True:
            value = self.run(script, *arguments)
            if value or time.monotonic() > end:
                return value
            time.sleep(0.05)

    def command(self, name: str, **parameters: Any) -> Any:
        """Sends a command of the DevTools protocol."""
        return self.call("POST", self.session + "/goog/cdp/execute",
                         {"cmd": name, "params": parameters})

    def resize(self, width: int, height: int = 900) -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1, mobile=width < 600)

    def media(self, kind: str = "screen", scheme: str = "light") -> None:
        self.command("Emulation.setEmulatedMedia", media=kind, features=[
            {"name": "prefers-color-scheme", "value": scheme}])

    def log(self, kind: str) -> List[Dict]:
        """What has been logged since the last call."""
        return self.call("POST", self.session + "/se/log", {"type": kind})

    def console(self) -> List[str]:
        return [entry["message"] for entry in self.log("browser")
                if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> List[str]:
        """The addresses asked for since the last call."""
        events = (json.loads(entry["message"])["message"]
                  for entry in self.log("performance"))
        return [event["params"]["request"]["url"] for event in events
                if event["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", self.session + "/screenshot")))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:     # pylint: disable=arguments-differ
        pass


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[str]:
    """Serves a folder; yields its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
