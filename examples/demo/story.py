"""What happens in the demo, in order. Everything printed is measured in this run; the last line is one JSON object."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import pulsar

from examples.demo import cluster, database
from examples.demo.outage import broker_outage
from examples.demo.topics import Received
from sandbox import helm

TENANTS = ("acme", "globex")
ORDERS = 1000
ORDERS_DURING_OUTAGE = 50
OUTAGE_SECONDS = 15
LIMIT_SECONDS = 90
WIDTHS = "{:8} {:8} {:7} {:19} {:9} {:5} {:5} {}"
"""One row at a time comes with widths of its own; these keep the rows of the outage below each other."""


class Demo:
    """The plot and what it saw on the way."""

    def __init__(self, started: float) -> None:
        """started: when the person typed the command, on the monotonic clock."""
        self._started = started
        self._database_url = asyncio.run(database.create_anew(os.environ["DATABASE_URL"]))
        self._topic = f"persistent://public/default/demo-{time.time_ns():x}-{{tenant}}"
        self._service_url = os.environ["PULSAR_URL"]
        self._max_lag = 0
        client = pulsar.Client(self._service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        self._client = client
        self._received: dict[str, Received] = {}

    def say(self, text: str) -> None:
        """A line with the time since the start."""
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", flush=True)

    def run(self) -> None:
        """All acts."""
        self._install()
        self._first_orders()
        self._outage()
        self._poison()
        self._summary()

    def _install(self) -> None:
        self.say("helm install: the operator")
        helm.install("outbox", "charts/outbox-operator", namespace="outbox-system")
        self.say("tables: the shop's orders, and the outbox beside them")
        self._shop("create-tables")
        cluster.run("kubectl", "apply", "-f", "-", stdin=json.dumps(_namespace()))
        cluster.kubectl("delete", "outboxtenants", "--all", "--wait=true")
        for name in TENANTS:
            self._received[name] = Received(self._client, self._topic.format(tenant=name))
        self.say(f"kubectl apply: the tenants {' and '.join(TENANTS)}, each a Secret and an OutboxTenant")
        for name in TENANTS:
            cluster.apply(
                *cluster.tenant(name, database_url=self._database_url, service_url=self._service_url, topic=self._topic)
            )
        for name in TENANTS:
            cluster.wait_until(name, LIMIT_SECONDS, _is_ready)
        self._show_table()

    def _first_orders(self) -> None:
        self.say(f"{ORDERS} orders in each shop: placed, then paid, so two transactions and two events an order")
        for name in TENANTS:
            self._shop("place", "--tenant", name, "--count", str(ORDERS))
        for name in TENANTS:
            self._received[name].wait_for(2 * ORDERS, LIMIT_SECONDS)
            self.say(f"{name}: {len(self._received[name].times_received)} events received")

    def _outage(self) -> None:
        name = TENANTS[1]
        self.say(f"{name} loses its broker; the shop goes on: {ORDERS_DURING_OUTAGE} more orders. LAG grows:")
        shown = -1
        with broker_outage(cluster.pod_addresses(name), self._service_url):
            self._shop("place", "--tenant", name, "--count", str(ORDERS_DURING_OUTAGE))
            for seen in cluster.watch(name, LIMIT_SECONDS):
                shown = self._show_lag(seen, shown)
                if shown >= OUTAGE_SECONDS and not _is_ready(seen):
                    break
        self.say(f"{name} has its broker back:")
        for seen in cluster.watch(name, LIMIT_SECONDS):
            shown = self._show_lag(seen, shown)
            if shown == 0 and _is_ready(seen):
                break
        self._received[name].wait_for(2 * (ORDERS + ORDERS_DURING_OUTAGE), LIMIT_SECONDS)

    def _poison(self) -> None:
        name = TENANTS[0]
        self.say(f"{name} writes an event that the broker can never take (larger than 5 MiB):")
        asyncio.run(database.write_poison(self._database_url, name))
        cluster.wait_until(name, LIMIT_SECONDS, lambda seen: cluster.errors(seen) == 1)
        self._show_table()

    def _summary(self) -> None:
        written: dict[str, str] = {}
        times_received: dict[str, int] = {}
        for name in TENANTS:
            self._received[name].close()
            written |= asyncio.run(database.event_statuses(self._database_url, name))
            times_received |= self._received[name].times_received
        self._client.close()
        deliverable = {event_id for event_id, status in written.items() if status != "ERR"}
        strangers = set(times_received) - set(written)
        shown = {name: cluster.outbox_tenant(name) for name in TENANTS}
        result = {
            "written": len(written),
            "received": sum(times_received.values()),
            "duplicates": sum(times_received.values()) - len(times_received),
            "missing": len(deliverable - set(times_received)),
            "err_shown": sum(cluster.errors(seen) for seen in shown.values()),
            "max_lag_seconds_shown": self._max_lag,
            "seconds_total": round(time.monotonic() - self._started, 1),
            "seconds_to_first_event": round(self._first_event_at() - self._started, 1),
        }
        print(f"\n{cluster.table()}\n")
        print(f"  events written     {result['written']:6}   of which {result['err_shown']} can never be published")
        print(f"  events received    {result['received']:6}")
        print(f"  duplicates         {result['duplicates']:6}")
        print(f"  missing            {result['missing']:6}")
        print(f"  highest LAG shown  {result['max_lag_seconds_shown']:6} s")
        print("\nIt all runs on. To look around: `make shell` (that is `python -m sandbox shell`), and in it")
        print("    kubectl get outboxtenants -n shops -o wide")
        print("    kubectl describe outboxtenant acme -n shops")
        print(f"    psql ${{DATABASE_URL%/*}}/{database.NAME} -c 'SELECT status, count(*) FROM outbox GROUP BY 1'")
        print("To stop it: `make down`.\n")
        print(json.dumps(result), flush=True)
        if strangers or result["missing"]:
            raise SystemExit(f"demo: {result['missing']} events are missing, {len(strangers)} were never written")

    def _first_event_at(self) -> float:
        return min(received.first_at or time.monotonic() for received in self._received.values())

    def _shop(self, *arguments: str) -> None:
        cluster.run(sys.executable, "-m", "examples.orders", "--database-url", self._database_url, *arguments)

    def _show_lag(self, seen: dict[str, object], last: int) -> int:
        lag = cluster.lag_seconds(seen)
        self._max_lag = max(self._max_lag, lag)
        if lag != last:
            columns, values = cluster.row(TENANTS[1])
            if last < 0:
                self.say(WIDTHS.format(*columns))
            self.say(WIDTHS.format(*values))
        return lag

    def _show_table(self) -> None:
        for line in cluster.table().splitlines():
            self.say(line)


def _namespace() -> dict[str, object]:
    """The tenants' namespace, under the strictest Pod Security profile."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.NAMESPACE, "labels": labels}}


def _is_ready(seen: dict[str, object]) -> bool:
    status = seen.get("status", {})
    assert isinstance(status, dict)
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
