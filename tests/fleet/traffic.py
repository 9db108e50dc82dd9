"""Requests through the proxy until told to stop, and what was wrong with their answers."""

import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException

CATEGORIES = ["fraud_deception", "malware_viruses", "privacy_violation", "none"]


class Traffic:
    def __init__(self, url, num_clients=3):
        self.url = url
        self.answers = []  # (when sent, generation)
        self.faults = []
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self._ask_on, args=(number,)) for number in range(num_clients)
        ]
        for thread in self.threads:
            thread.start()

    def _ask_on(self, number):
        for turn in itertools.count(number):
            if self.stopping.is_set():
                return
            sent = time.monotonic()
            category = CATEGORIES[turn % len(CATEGORIES)]
            try:
                self.answers.append((sent, self._ask(category, streamed=turn % 2 == 0)))
            except (AssertionError, OSError, ValueError, KeyError, HTTPException) as fault:
                self.faults.append(f"{type(fault).__name__}: {fault}")

    def _ask(self, category, streamed):
        """One request; the generation of its answer, which must be the same in head and body."""
        body = {
            "model": "default",
            "messages": [{"role": "user", "content": "Name three colours."}],
            "max_tokens": 8,
            "temperature": 0,
            "stream": streamed,
        }
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Safety-Category": category},
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                named = answer.headers["x-steering-generation"]
                text = answer.read().decode()
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{refused.code}: {refused.read()[:200]}") from None
        if streamed:
            frames = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            assert frames[-1] == "[DONE]", "the stream was cut off"
            choices = [choice for frame in frames[:-1] for choice in json.loads(frame)["choices"]]
            steering = [choice["steering"] for choice in choices if choice.get("steering")]
        else:
            steering = [choice["steering"] for choice in json.loads(text)["choices"]]
        assert len(steering) == 1, f"{len(steering)} pieces of evidence"
        assert steering[0]["generation"] == named, "two generations in one answer"
        is_steered = steering[0]["steered_completion_tokens"] > 0
        assert is_steered == (category != "none"), f"{category}: steered is {is_steered}"
        return named

    def since(self, moment):
        """The generations of what was sent from a moment on."""
        return {generation for sent, generation in list(self.answers) if sent >= moment}

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
