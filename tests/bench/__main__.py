"""Run the benchmarks: `python -m tests.bench [WORD ...]` runs those whose name holds one of the words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from gateway.lab.namespaces import LabError
from gateway.lab.userns import ensure_privileged
from tests.bench import (
    api_load,
    esp,
    fast_program,
    fast_rates,
    fast_stream,
    handshakes,
    leases,
    leasing,
    live,
    looked_at,
    lookup_disk,
    lookup_etcd,
    lookup_http,
    lookup_replica,
    many_sites,
    next_hops,
    pipeline,
    records,
    rewrite,
    site_stream,
    sites,
    vm_to_vm,
)
from tests.bench.results import Benchmark, CannotMeasure, Result, to_json, to_table

BENCHMARKS: dict[str, Benchmark] = {
    "pipeline": pipeline.benchmark,
    "rewrite": rewrite.benchmark,
    "looked-at": looked_at.benchmark,
    "esp": esp.benchmark,
    "handshakes": handshakes.benchmark,
    "records": records.benchmark,
    "live": live.benchmark,
    "fastpath-rates": fast_rates.benchmark,
    "fastpath-program": fast_program.benchmark,
    "fastpath-stream": fast_stream.benchmark,
    "next-hops": next_hops.benchmark,
    "sites": sites.benchmark,
    "site-stream": site_stream.benchmark,
    "many-sites": many_sites.benchmark,
    "vm-to-vm": vm_to_vm.benchmark,
    "lookup-http": lookup_http.benchmark,
    "lookup-replica": lookup_replica.benchmark,
    "lookup-disk": lookup_disk.benchmark,
    "leases": leases.benchmark,
    "leases-node": leasing.benchmark,
    "lookup-etcd": lookup_etcd.benchmark,
    "api-load": api_load.benchmark,
}

REPORT = Path("build/bench.json")


def main(words: list[str]) -> None:
    """Measure, print the table and write the report."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    results: list[Result] = []
    for name, benchmark in BENCHMARKS.items():
        if words and not any(word in name for word in words):
            continue
        try:
            with console.status(f"measuring: {name}"):
                results += benchmark()
        except (CannotMeasure, LabError) as reason:
            console.print(f"{name}: not measured: {reason}")
    console.print(to_table(results))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(to_json(results), indent=2) + "\n")
    console.print(f"written to {REPORT}")


if __name__ == "__main__":
    try:
        ensure_privileged()
    except LabError as reason:
        # What needs namespaces says that it cannot measure, and the others run.
        print(reason)
    main(sys.argv[1:])
