"""A runtime that never rests: pods start and end, one after the other, while a test does to their node what it tests.

with busy(site):
    ...
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from types import TracebackType

from kubesite import KubeSite, until

from fixtures.processes import PluginCall

PAUSE = 0.15  # seconds between two pods
SLACK = 2.0  # that any call may take on a busy machine, beside ten times what was usual; no time-out is as short
ENOUGH = 10  # calls, to know what is usual


@contextmanager
def busy(site: KubeSite) -> Iterator[None]:
    """No call of the plugin fails, or takes much longer than those before; and in the end nothing is left of them."""
    with Traffic(site) as traffic:
        traffic.is_usual()
        yield
    assert traffic.wrongs() == []
    site.wait_quiet()
    assert site.wrongs() == []


@dataclass(frozen=True)
class Call:
    verb: str
    began: float
    seconds: float
    refused: str


class Traffic:
    def __init__(self, site: KubeSite) -> None:
        self._site = site
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._fault: BaseException | None = None
        self._before = 0
        self.calls: list[Call] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def is_usual(self) -> None:
        """What was until now; what comes is compared with it."""
        until(lambda: len(self.calls) >= ENOUGH or self._fault, 20, lambda: self.calls)
        self._before = len(self.calls)

    def wrongs(self) -> list[str]:
        """Once it has ended."""
        if self._fault is not None:
            raise self._fault
        usual = median(each.seconds for each in self.calls[: self._before])
        longest = max(self._waited(each) for each in self.calls)
        print(f"{len(self.calls)} calls, at first {usual * 1e3:.0f} ms (median), at most {longest * 1e3:.0f} ms")
        late = [each for each in self.calls if self._waited(each) > 10 * usual + SLACK]
        return [
            *[f"{each.verb} failed: {each.refused}" for each in self.calls if each.refused],
            *[f"{each.verb} took {each.seconds:.2f} s, usual are {usual:.3f} s" for each in late],
        ]

    def _waited(self, call: Call) -> float:
        """Without the time in which no daemon ran."""
        overlaps = (min(call.began + call.seconds, end) - max(call.began, start) for start, end in self._site.downs)
        return call.seconds - sum(max(0.0, each) for each in overlaps)

    def _run(self) -> None:
        try:
            while not self._end.wait(PAUSE):
                self._start_and_end(f"traffic{len(self.calls)}")
        except BaseException as fault:  # noqa: BLE001  # raised again by `wrongs`
            self._fault = fault

    def _start_and_end(self, container: str) -> None:
        with self._netns() as path:
            for verb in ("ADD", "DEL"):
                began = time.monotonic()
                answer = PluginCall(self._site.node, self._site.conf, verb, container, path).call()
                refused = "" if answer.code == 0 else answer.raw.decode() + answer.errors.decode()
                self.calls.append(Call(verb, began, answer.seconds, refused))

    @contextmanager
    def _netns(self) -> Iterator[str]:
        pod = self._site.node.new_pod_netns()
        try:
            yield pod.path
        finally:
            self._site.node.delete_netns(pod)
