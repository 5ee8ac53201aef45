"""Several hosts on one machine: network namespaces, or else loopback addresses.

As root on Linux, each host is a namespace with its own address, and a cable leads from it
to a bridge at which the test sits; a cable can be cut. Where the kernel has netem, a
packet takes 20 ms, and 1 % of them are lost. Otherwise the hosts are 127.x.y.z, and there
are no cables to cut.
"""
import contextlib
import os
import shutil
import subprocess
from typing import List

DELAY = "20ms"
LOSS = "1%"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)


class Host:
    """One of them. command() runs a program there."""

    def __init__(self, address: str, namespace: str = "", cable: str = "") -> None:
        self.address, self.namespace, self.cable = address, namespace, cable

    def command(self, words: List[str]) -> List[str]:
        return (["ip", "netns", "exec", self.namespace, *words] if self.namespace
                else words)

    def plug(self, plugged: bool) -> None:
        ip("link", "set", self.cable, "up" if plugged else "down")


class Network:
    """`address` is where the test is, `hosts` are the others."""

    def __init__(self, count: int) -> None:
        self.name = f"room{os.getpid()}"
        self.bridge = f"br{os.getpid()}"
        self.address = "127.0.0.1"
        self.hosts: List[Host] = []
        self.real = self.netem = False
        if os.getuid() == 0 and shutil.which("ip"):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.make(count)
                self.real = True
        if not self.real:
            self.close()
            self.hosts = [Host(f"127.0.1.{number + 1}") for number in range(count)]

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __str__(self) -> str:
        if not self.real:
            return "loopback addresses (network namespaces need root)"
        return "network namespaces, " + (f"{DELAY} and {LOSS} loss" if self.netem
                                         else "no delay (the kernel has no netem)")

    def make(self, count: int) -> None:
        subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.address = f"{subnet}.1"
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        self.netem = True
        for number in range(count):
            host = Host(f"{subnet}.{number + 2}", f"{self.name}-{number}",
                        f"v{os.getpid()}-{number}")
            ip("netns", "add", host.namespace)
            self.hosts.append(host)
            ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns",
               host.namespace)
            ip("link", "set", host.cable, "master", self.bridge, "up")
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            ip("-n", host.namespace, "link", "set", "lo", "up")
            self.netem = self.netem and subprocess.run(
                ["tc", "qdisc", "add", "dev", host.cable, "root", "netem", "delay", DELAY,
                 "loss", LOSS], stderr=subprocess.DEVNULL).returncode == 0

    def close(self) -> None:
        for host in self.hosts:
            if host.namespace:
                with contextlib.suppress(subprocess.CalledProcessError):
                    ip("netns", "del", host.namespace)
        if os.getuid() == 0 and shutil.which("ip"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("link", "del", self.bridge)
        self.hosts = []
