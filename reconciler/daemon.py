"""The daemon's life: lock, read the records, see what became of them, finish it, answer who waits, then watch.

The order of the start is the crash recovery. Addresses are claimed for every live record before any intent is
looked at, so none is given twice; what the records say about links and namespaces is compared with the kernel in two
dumps, not in ten thousand questions; and the pure `plan_restart` says for each record what is to be done.

This module also holds the second of the two supervisors: a background task that fails is logged once, with its
cause, and started again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from cni.spec import Refusal
from reconciler import observe, watch
from reconciler.config import Change, Config, Problem, changes
from reconciler.desk import Desk
from reconciler.engine import Engine
from reconciler.ipam import delegate
from reconciler.ipam.ledger import Ledger
from reconciler.ipam.pool import PoolSpec
from reconciler.mailbox import Mailbox
from reconciler.mesh.static import StaticRoutesAdvertiser
from reconciler.node.host import Host
from reconciler.node.keeper import Keeper
from reconciler.node.sysctl import tree
from reconciler.node.wish import HostWish
from reconciler.operate.log import Once
from reconciler.operate.notify import Notifier
from reconciler.ports import Advertiser, NoIsolation, SystemClock
from reconciler.recovery import Recovery
from reconciler.reporter import Reporter
from reconciler.settings import SETTINGS, Network
from reconciler.steps import Adapters, Steps
from reconciler.store import Store
from reconciler.wiring.kernel import KernelWiring
from reconciler.wiring.plan import instance_group

log = logging.getLogger("headcni")

THREADS = 4  # for netlink; the kernel takes one writer at a time anyway
AUDIT_SECONDS = 60.0
FOLLOW_SECONDS = 2.0
FIRST_PAUSE, LAST_PAUSE = 0.5, 60.0  # before a task that failed is started again
STOP_SECONDS = 4.0  # of the five that SIGTERM is given
LOCK_TRIES = 20  # a plugin that looks at the lock holds it for an instant
DEFAULT_MTU = 1280  # what every mesh interface can carry

if TYPE_CHECKING:
    from reconciler.kube.side import KubeSide
    from reconciler.mesh.side import MeshSide
    from reconciler.operate.http import Server

Reload = Callable[[], Config | list[Problem]]


def run(config: Config, reload: Reload) -> int:
    """0: ended as asked. 1: could not start; the log says why."""
    store = Store(config.state_dir)
    try:
        store.prepare()
        if not _lock(store):
            return 1
    except OSError as error:
        log.error(
            "the state directory %s cannot be used: %s: %s; name a directory that root can write with --state-dir",
            *(store.root, error.filename, error.strerror),
        )
        return 1
    try:
        asyncio.run(Daemon(config, store, reload).main())
    finally:
        store.unlock()
    return 0


def _lock(store: Store) -> bool:
    for _ in range(LOCK_TRIES):
        held = store.lock()
        if held is None:
            return True
        time.sleep(0.02)
    log.error(
        "another daemon holds %s/daemon.lock (%s); stop it, or use another --state-dir",
        store.root,
        held and held.holder,
    )
    return False


class Daemon:
    def __init__(self, config: Config, store: Store, reload: Reload) -> None:
        self._once = Once(log)
        self._pod_cidr = Keeper(store, self._once)
        config = self._config = self._pod_cidr.settle(config, os.environ)
        self._reload = reload
        self._manager = Notifier(os.environ, self._once)
        self._store = store
        self._mailbox = Mailbox(store)
        self._observer = observe.Observer()
        self._host = Host(config.state_dir, proc_sys=tree(config.node_root))
        self._wiring = KernelWiring(instance_group(str(config.state_dir)))
        self._boot_id = _boot_id()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="netlink")
        self._ledger = Ledger(lambda: time.monotonic(), random.Random(), self._host.foreign_addresses)
        clock = SystemClock()
        self._mesh: MeshSide | None = None
        advertiser: Advertiser = StaticRoutesAdvertiser(self._host.keep_static_routes)
        if config.mesh_mode == "tailscale":
            from reconciler.mesh.side import MeshSide  # not for a node without a mesh

            self._mesh = MeshSide(lambda: self._config, store, self._host, clock, self._observer)
            advertiser = self._mesh.advertiser
        adapters = Adapters(
            clock=clock,
            ledger=self._ledger,
            wiring=self._wiring,
            isolation=NoIsolation(),
            advertiser=advertiser,
            delegate=delegate.run,
            observer=self._observer,
            threads=self._threads,
            ensure_pod_cidrs=self._host.ensure_pod_cidrs,
            warn=self._once.warn,
        )
        steps = Steps(adapters, instance_group(str(config.state_dir)), self._default_mtu)
        self._desk = Desk(
            *(adapters, store, self._mailbox, steps, self._boot_id, self._node_pools),
            *(lambda: self._config.service_cidrs, config.headscale_url, config.tailscale_socket),
        )
        self._engine = Engine(self._desk)
        self._recovery = Recovery(
            self._desk, self._engine, store, self._ledger, self._wiring, self._boot_id, self._once.warn
        )
        self._kube: KubeSide | None = None
        self._given: tuple[Network, ...] = ()  # pod CIDRs, by the API
        self._judged: tuple[Network, ...] = ()  # the same, when the daemon goes by them
        self._news = asyncio.Event()
        self._endpoint: Server | None = None
        self._stop = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        summary = self._mesh.summary if self._mesh else dict
        self._reporter = Reporter(
            *(config, store, self._desk, self._ledger, self._host, self._once, self._boot_id, summary),
            *(self._pod_cidr.data, lambda: self._kube.summary() if self._kube else {}),
            lambda: self._pod_cidr.others.networks,
        )

    async def main(self) -> None:
        stop = self._stop
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        for warning in self._config.warnings:
            self._once.warn(f"configuration {warning}", warning)
        if self._mesh is not None:
            self._mesh.attend(lambda: self._desk.records, self._engine.post, self._reporter.changed)
        self._recover()
        await self._prepare_host()
        await self._reporter.look_at_host()
        self._reporter.write()
        self._background += [
            asyncio.create_task(self._keep(name, work), name=name)
            for name, work in (
                ("watch", self._watch),
                ("audit", self._audit),
                ("report", self._reporter.loop),
                ("look", self._reporter.look),
                ("pod cidr", self._follow_pod_cidr),
                *([("conflist", self._keep_conflist)] if self._config.cni_template else ()),
                *([("notify", self._notify)] if self._manager.wanted else ()),
                *self._mesh_tasks(),
                *([("kube", self._attend_kubernetes)] if self._config.kube_mode == "auto" else ()),
            )
        ]
        await asyncio.to_thread(self._open_endpoint)
        await stop.wait()
        log.info("stopping: no new intents, what is in progress is finished")
        self._manager.stopping()
        for task in self._background:
            task.cancel()
        await self._engine.stop(STOP_SECONDS)
        self._reporter.stopped()
        if self._endpoint is not None:
            self._endpoint.stop()
        log.info("stopped")

    def _mesh_tasks(self) -> tuple[tuple[str, Callable[[], Awaitable[None]]], ...]:
        if self._mesh is None:
            return (("leave the mesh", self._leave_mesh),) if (self._store.root / "mesh.json").exists() else ()
        return self._mesh.tasks

    async def _leave_mesh(self) -> None:
        """mesh.mode was tailscale before."""
        from reconciler.mesh.leave import leave_for_good

        await leave_for_good(self._store, self._config.tailscale_socket, self._once.warn)

    async def _keep_conflist(self) -> None:
        from reconciler.install.keeper import ConflistKeeper  # only where there is a template

        once, reporter = self._once, self._reporter
        keeper = ConflistKeeper(
            *(lambda: self._config, self._store, lambda: reporter.ready, once, reporter.changed),
            lambda: self._config.kube_mode == "auto" and self._pod_cidr.guesses,
        )
        await keeper.run()

    async def _notify(self) -> None:
        await self._manager.run(lambda: self._reporter.latest)

    async def _attend_kubernetes(self) -> None:
        if self._kube is None:
            await asyncio.to_thread(import_module, "reconciler.kube.side")  # it takes longer than an ADD
            from reconciler.kube.garbage import RuntimeList
            from reconciler.kube.side import KubeSide, Needs

            needs = Needs(
                status=lambda: self._reporter.latest,
                records=lambda: self._desk.records,
                idle=lambda key: not self._engine.working_on(key),
                namespace_alive=self._desk.namespace_alive,
                runtime_lists=lambda: {name: RuntimeList(*last) for name, last in self._engine.runtime_lists.items()},
                post=self._engine.post,
                keep=self._desk.keep,
                changed=self._reporter.changed,
                warn=self._once.warn,
                given=self._take_given,
                settled=lambda: self._given == self._judged,
                others=self._pod_cidr.learn,
            )
            self._kube = KubeSide(self._config.node_name, self._desk.clock, needs)
        await self._kube.run(lambda: self._config)

    def _open_endpoint(self) -> None:
        """After the first intents were served: what it imports takes longer than they do."""
        config, reporter = self._config, self._reporter
        if not config.metrics_port:
            return
        from reconciler.operate import http, metrics

        numbers = metrics.Metrics(self._observer, reporter.latest_status)
        served = http.pages(
            config.metrics_path, numbers.render, reporter.beat_age, lambda: reporter.latest_status()["not_ready"]
        )
        opened = http.start(config.metrics_address, config.metrics_port, served)
        if isinstance(opened, Refusal):
            self._once.warn("metrics", str(opened))  # pods matter more than their numbers
        else:
            self._endpoint = opened

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            await self._supervised(name, work)
            pause = FIRST_PAUSE if time.monotonic() - began > LAST_PAUSE else min(LAST_PAUSE, 2 * pause)
            await asyncio.sleep(pause)

    async def _supervised(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as fault:  # one of the two supervisors
            log.exception("fault task=%s cause=%r", name, fault)
            self._observer.error("fault")

    # --- start

    async def _prepare_host(self) -> None:
        wish = self._wish()
        for change in await asyncio.to_thread(self._host.prepare, wish):
            log.info("node: %s", change)
        for problem in await asyncio.to_thread(self._host.problems):
            self._once.warn(f"node {problem}", str(problem))

    def _recover(self) -> None:
        """Everything is in memory and compared before the first intent is served."""
        began = time.monotonic()
        self._store.sweep_drafts()
        self._mailbox.sweep(time.monotonic_ns())
        gc.disable()  # ten thousand records in the making are no garbage, and none will be soon
        records = self._recovery.load()
        gc.freeze()
        gc.enable()
        self._close_the_way_out()
        waiting = self._mailbox.collect()
        self._recovery.compare(waiting)
        self._engine.submit(waiting)
        took_ms = (time.monotonic() - began) * 1e3
        quarantined = self._store.quarantined()
        log.info(
            "started records=%d waiting=%d quarantined=%d took_ms=%.0f", records, len(waiting), quarantined, took_ms
        )

    def _close_the_way_out(self) -> None:
        """Before the first pod is wired, and with the pools of all that are: none of them is ever without its guard."""
        if self._mesh is not None:
            for problem in self._host.close_the_way_out(self._wish()):
                self._once.warn(f"node {problem}", str(problem))

    # --- in the background

    async def _watch(self) -> None:
        await watch.watch(self._mailbox, self._look)

    def _look(self) -> None:
        if not self._engine.stopping:
            self._engine.submit(self._mailbox.collect())

    def _take_given(self, cidrs: tuple[Network, ...]) -> None:
        self._given = cidrs
        self._news.set()

    async def _follow_pod_cidr(self) -> None:
        while True:
            self._news.clear()
            if self._given != self._judged:
                await self._judge_pod_cidr(self._given)
            if self._pod_cidr.follow(self._pools_in_use):
                self._reporter.changed()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), FOLLOW_SECONDS)

    async def _judge_pod_cidr(self, given: tuple[Network, ...]) -> None:
        """Anew, now that the API was asked. From the instant of a change pods get addresses of the new one, so nothing
        comes between that and its fence."""
        await self._pod_cidr.judge_again(self._config, os.environ, given)
        fresh = self._pod_cidr.applied(self._config)
        if fresh != self._config:
            self._config = self._reporter.config = fresh
            self._close_the_way_out()
            await self._prepare_host()
        self._reporter.write()
        self._judged = given

    def _pools_in_use(self) -> dict[Network, int]:
        pods = Counter(each.pool for record in self._desk.records.values() for each in record.addresses)
        return {ip_network(pool): count for pool, count in pods.items()}

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            if not self._store.lock_is_ours():
                log.error(
                    "%s/daemon.lock was removed or replaced, so another daemon may run: this one stops",
                    self._store.root,
                )
                self._stop.set()
            self._recovery.compare()
            self._mailbox.sweep(time.monotonic_ns())
            self._store.prune_history(time.time(), self._config.history_max_records, self._config.history_max_days)

    # --- configuration

    def _node_pools(self) -> tuple[PoolSpec, ...]:
        return tuple(PoolSpec(cidr) for cidr in self._config.pod_cidrs)

    def _wish(self) -> HostWish:
        pools = {each.pool for record in self._desk.records.values() for each in record.addresses}
        recorded = [ip_network(pool) for pool in pools]
        wish = HostWish(
            pod_cidrs=(*self._config.pod_cidrs, *recorded),
            cluster_cidrs=self._config.cluster_cidrs,
            masquerade=self._config.masquerade,
            ipv6=any(cidr.version == 6 for cidr in (*self._config.pod_cidrs, *recorded)),
            static_routes=self._config.static_routes,
        )
        return self._mesh.fenced(wish) if self._mesh else wish

    def _default_mtu(self) -> int:
        return self._config.mtu or (self._mesh.mtu() if self._mesh else 0) or DEFAULT_MTU

    def _on_reload(self) -> None:
        """SIGHUP. A configuration that is wrong changes nothing; what needs a restart says so."""
        self._manager.reloading()
        fresh = self._reload()
        if isinstance(fresh, list):
            for problem in fresh:
                log.error("configuration not reloaded: %s", problem)
            self._manager.reloaded()
            return
        fresh = self._pod_cidr.applied(fresh)
        found = changes(self._config, fresh)
        live = {setting.field: getattr(fresh, setting.field) for setting in SETTINGS if setting.live}
        self._config = self._reporter.config = replace(self._config, **live)
        logging.getLogger().setLevel(self._config.log_level.upper())
        applying = self._supervised("reload", partial(self._apply, found))
        self._background.append(asyncio.create_task(applying, name="reload"))

    async def _apply(self, found: list[Change]) -> None:
        """Said when it is so, not before."""
        try:
            await self._prepare_host()
        finally:
            self._manager.reloaded()
        for change in found:
            _log_change(change)
        if not found:
            log.info("configuration reloaded: nothing changed")


def _log_change(change: Change) -> None:
    effect = "takes effect at the next start" if change.needs_restart else "in effect"
    log.info("configuration reloaded: %s: %s -> %s (%s)", change.key, change.old, change.new, effect)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
