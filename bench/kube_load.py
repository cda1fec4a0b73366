# SPDX-License-Identifier: Apache-2.0
"""Load on a Kubernetes API server by h2load: creates, gets, pages, over HTTP/2 and HTTP/1.1.

    python -m bench.kube_load --pod pod.json                    starts `kvcore apiserver` itself
    python -m bench.kube_load --pod pod.json --server URL --token TOKEN
    ... --against create/1=185 --against page/16=20             adds a column: ours over theirs

Each figure is the median of `--rounds`, with the fdatasync rate of the data directory's disk taken
in turns with the creates of one stream: on a noisy disk only their ratio means something.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PODS = "/api/v1/namespaces/default/pods"
SYNCS = 300                      # of one look at the disk


def main() -> int:
    args = parser().parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed (package nghttp2-client)")
    against = dict(item.split("=") for item in args.against)
    with server(args) as (url, context, directory):
        fill(url, context, args)
        name = some_name(url, context, args.token)
        print(f"{'question':<16}{'protocol':<10}{'per second':>12}{'min':>9}{'max':>9}"
              f"{'mean ms':>9}{'ratio':>8}")
        for what in args.only.split(","):
            for streams in args.streams:
                for protocol in ("h2", "h1"):
                    runs = [once(url, what, name, streams, protocol, args)
                            for _ in range(args.rounds)]
                    rates = [rate for rate, _ in runs]
                    rate = statistics.median(rates)
                    theirs = against.get(f"{what}/{streams}")
                    ratio = f"{rate / float(theirs):8.1f}" if theirs else ""
                    print(f"{what + '/' + str(streams):<16}{protocol:<10}{rate:>12,.0f}"
                          f"{min(rates):>9,.0f}{max(rates):>9,.0f}"
                          f"{statistics.median(m for _, m in runs):>9.2f}{ratio}", flush=True)
        print(f"fdatasync/s of the same disk: {statistics.median(disk(directory)):,.0f}")
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    top.add_argument("--pod", required=True, metavar="FILE", help="JSON of a pod, generateName")
    top.add_argument("--server", metavar="URL", help="a server that runs (default: our own)")
    top.add_argument("--token", help="a bearer token for it: h2load has no client certificate")
    top.add_argument("--data-dir", metavar="DIR", help="of our own server (default: temporary)")
    top.add_argument("--objects", type=int, default=6000, help="pods there are (default 6,000)")
    top.add_argument("--streams", type=int, nargs="+", default=[1, 16, 100])
    top.add_argument("--only", default="create,get,page", help="questions, with commas")
    top.add_argument("--requests", type=int, default=2000, help="of one run; pages a tenth")
    top.add_argument("--rounds", type=int, default=5)
    top.add_argument("--against", action="append", default=[], metavar="QUESTION/STREAMS=N",
                     help="a peer's figure to divide by; may be repeated")
    top.add_argument("--options", default="", help="further options of kvcore apiserver")
    return top


@contextmanager
def server(args: argparse.Namespace) -> Iterator[tuple[str, ssl.SSLContext, str]]:
    """URL, TLS for Python, and a directory on the store's disk."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory(prefix="kvcore-load-", dir=args.data_dir) as directory:
        if args.server:
            yield args.server, context, directory
            return
        process = subprocess.Popen(
            [sys.executable, "-m", "kvcore", "apiserver", "--data-dir", f"{directory}/store",
             "--secure-port", "0", "--json", *args.options.split()], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield ready["url"], context, directory
            print(f"ready after {ready['seconds'] * 1000:.0f} ms, "
                  f"{resident(process.pid):,.0f} MB resident")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def said(token: str | None) -> list[str]:
    return ["-H", f"authorization: Bearer {token}"] if token else []


def fetch(url: str, context: ssl.SSLContext, token: str | None) -> dict:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, None, headers)
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)


def fill(url: str, context: ssl.SSLContext, args: argparse.Namespace) -> None:
    """Enough pods for pages."""
    page = fetch(f"{url}{PODS}?limit=1", context, args.token)
    there = len(page["items"]) + page["metadata"].get("remainingItemCount", 0)
    if there < args.objects:
        subprocess.run(["h2load", "-c1", "-m16", "-n", str(args.objects - there), "-d", args.pod,
                        "-H", "content-type: application/json", *said(args.token), url + PODS],
                       check=True,
                       stdout=subprocess.DEVNULL)


def some_name(url: str, context: ssl.SSLContext, token: str | None) -> str:
    return fetch(f"{url}{PODS}?limit=1", context, token)["items"][0]["metadata"]["name"]


def once(url: str, what: str, name: str, streams: int, protocol: str,
         args: argparse.Namespace) -> tuple[float, float]:
    """One run: requests per second, mean milliseconds. Every answer must be a success."""
    count = max(args.requests // 10 if what == "page" else args.requests, streams)
    how = (["-c1", f"-m{streams}"] if protocol == "h2" else ["--h1", f"-c{streams}", "-m1"])
    target = {"create": ["-d", args.pod, "-H", "content-type: application/json", url + PODS],
              "get": [f"{url}{PODS}/{name}"], "page": [f"{url}{PODS}?limit=500"]}[what]
    out = subprocess.run(["h2load", *how, "-n", str(count),
                          *said(args.token), *target], check=True,
                         capture_output=True, text=True).stdout
    succeeded = re.search(r"(\d+) succeeded", out)
    if succeeded is None or int(succeeded[1]) != count:
        sys.exit(f"not all of {count} requests succeeded:\n{out}")
    rate = re.search(r"finished in [^,]*, ([\d.]+) req/s", out)
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", out)
    assert rate and mean
    return float(rate[1]), float(mean[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[mean[2]]


def disk(directory: str) -> list[float]:
    """How often a second 1.5 KiB are written and synced, in a file that is there already."""
    found = []
    with open(Path(directory, "floor"), "w+b", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
        os.fsync(file.fileno())
        for _ in range(3):
            start = time.perf_counter()
            for number in range(SYNCS):
                os.pwrite(file.fileno(), b"x" * 1536, number * 1536)
                os.fdatasync(file.fileno())
            found.append(SYNCS / (time.perf_counter() - start))
    return found


if __name__ == "__main__":
    sys.exit(main())
