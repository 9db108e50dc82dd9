"""Three servers that follow one store, behind a proxy, with requests all the while.

    fleet.py SKEG MODEL VECTORS

Run by `cargo xtask fleet`. Everything is on loopback; it stops by itself, with 1 if something was not as it should be. Needs the
program haproxy; with faketime one replica's clock is three days ahead and another's three days behind.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import generations
from processes import Replica, in_front_of, published
from store import BUCKET, Store
from traffic import Traffic

PLACE = f"s3://{BUCKET}/vectors"
CLOCKS = [None, "+3d", "-3d"]
# Far above what it takes: beyond it something is wrong.
DEADLINE = 120


class Scenario:
    def __init__(self, skeg, model, vectors, folder):
        self.skeg, self.folder = skeg, folder
        self.store = Store(folder)
        shipped = generations.read(vectors)
        make = lambda name, files: (folder / name, generations.write(folder / name, files))
        self.first = make("first", shipped)
        self.second = make("second", generations.with_card(shipped, "\nSecond.\n"))
        self.third = make("third", generations.with_card(shipped, "\nThird.\n"))
        self.wrong = make("wrong", generations.reversed_vectors(shipped))
        self.publish(self.first)
        self.replicas = [
            Replica(number, skeg, model, PLACE, self.store, folder, clock)
            for number, clock in enumerate(CLOCKS, 1)
        ]
        self.proxy = self.traffic = None

    def publish(self, generation):
        """Copies it to the store and makes it the one that serves; when it was done."""
        source, name = generation
        published(self.skeg, self.store, PLACE, "publish", "--from", source)
        say(f"published {name}")
        return time.monotonic()

    def run(self):
        for replica in self.replicas:
            replica.start()
        clocks = [replica.clock or "right" for replica in self.replicas]
        say(f"three replicas serve {self.first[1]}; their clocks: {', '.join(clocks)}")
        self.proxy, url = in_front_of(self.replicas, self.folder)
        self.traffic = Traffic(url)
        self.publish_once()
        self.publish_what_must_not_live()
        self.take_the_store_away()
        self.freeze_the_store()
        self.go_back()
        self.traffic.stop()
        self.judge()

    def publish_once(self):
        began = self.publish(self.second)
        self.await_all(self.second, began)

    def publish_what_must_not_live(self):
        failed = [replica.count("skeg_swap", "failed") for replica in self.replicas]
        began = self.publish(self.wrong)
        for replica, before in zip(self.replicas, failed):
            until(lambda: replica.count("skeg_swap", "failed") > before, "a replica to refuse it")
            check(replica.generation() == self.second[1], f"{replica.name} took a wrong generation")
        say("all three refused vectors that point the other way and stayed")
        published(self.skeg, self.store, PLACE, "rollback")
        check(self.wrong[1] not in self.traffic.since(began), "a wrong generation answered")

    def take_the_store_away(self):
        self.store.stop()
        say("the store refuses connections")
        for replica in self.replicas:
            until(lambda: replica.metric(r"skeg_store_following\{[^}]*\} (\S+)") == "0.0", "a fault")
        restarted = self.replicas[1]
        check(restarted.end() == 0, "a replica did not end well")
        began = time.monotonic()
        restarted.start()
        check(restarted.generation() == self.second[1], "a replica started with something else")
        say(f"{restarted.name} ended and started from its copy in {time.monotonic() - began:.1f} s")
        self.store.start()
        began = self.publish(self.third)
        self.await_all(self.third, began)

    def freeze_the_store(self):
        self.store.freeze(True)
        say("the store takes connections and answers nothing")
        began = time.monotonic()
        until(lambda: len(self.traffic.since(began)) > 0, "answers")
        killed = self.replicas[2]
        killed.end(with_signal=9)
        killed.start()
        check(killed.generation() == self.third[1], "a replica started with something else")
        say(f"{killed.name} was killed and started from its copy in {time.monotonic() - began:.1f} s")
        self.store.freeze(False)

    def go_back(self):
        published(self.skeg, self.store, PLACE, "rollback")
        began = time.monotonic()
        say(f"rolled back to {self.second[1]}")
        self.await_all(self.second, began)

    def await_all(self, generation, began):
        name = generation[1]
        took = []
        for replica in self.replicas:
            until(lambda: replica.generation() == name, f"{replica.name} to serve {name}")
            took.append(time.monotonic() - began)
        swaps = [replica.metric(r"skeg_swap_duration_seconds_sum\{[^}]*\} (\S+)") for replica in self.replicas]
        say(f"all three serve {name} after {max(took):.1f} s (swaps so far, in all, s: {', '.join(map(str, swaps))})")
        # What is sent from here on is answered under it, by whichever replica.
        moment = time.monotonic()
        until(lambda: self.traffic.since(moment), "an answer")
        check(self.traffic.since(moment) == {name}, "an answer under another generation")

    def judge(self):
        counts = {}
        for _, generation in self.traffic.answers:
            counts[generation] = counts.get(generation, 0) + 1
        by = ", ".join(f"{name} {count}" for name, count in counts.items())
        say(f"{len(self.traffic.answers)} answers ({by}), {len(self.traffic.faults)} failed")
        known = {self.first[1], self.second[1], self.third[1]}
        check(set(counts) <= known, "an answer under a generation that was not to be served")
        for fault in self.traffic.faults[:10]:
            say(f"  {fault}")
        # A replica that is killed takes the answers that it had begun with it: the proxy must not ask again for those.
        cut_off = [fault for fault in self.traffic.faults if is_cut_off(fault)]
        check(len(cut_off) == len(self.traffic.faults), "requests failed")
        check(len(cut_off) <= len(self.traffic.threads), "more answers were cut off than were under way")
        lines = [line for replica in self.replicas for line in replica.decisions.read_text().splitlines()]
        seen = {json.loads(line)["generation"] for line in lines if line.endswith("}")}
        check(seen - {None} <= known, "the decision logs name another generation")

    def end(self):
        if self.traffic:
            self.traffic.stop()
        for replica in self.replicas:
            if replica.process:
                replica.process.kill()
        if self.proxy:
            self.proxy.kill()
        self.store.end()


def is_cut_off(fault):
    return any(word in fault for word in ("IncompleteRead", "RemoteDisconnected", "cut off", "reset", "502"))


def until(holds, what):
    end = time.monotonic() + DEADLINE
    while not holds():
        check(time.monotonic() < end, f"waited {DEADLINE} s for {what}")
        time.sleep(0.05)


def check(holds, fault):
    if not holds:
        raise SystemExit(f"fleet: {fault}")


def say(line):
    print(f"fleet: {line}", flush=True)


def main():
    skeg, model, vectors = map(Path, sys.argv[1:4])
    if not shutil.which("haproxy"):
        raise SystemExit("fleet: the program haproxy is needed; install it")
    folder = Path(tempfile.mkdtemp(prefix="skeg-fleet-"))
    scenario = None
    try:
        scenario = Scenario(skeg, model, vectors, folder)
        scenario.run()
    except BaseException:
        say(f"logs are in {folder}")
        raise
    finally:
        if scenario:
            scenario.end()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
