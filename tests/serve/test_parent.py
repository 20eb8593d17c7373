"""A child hears of its parent's end once, and only once."""

import os
import signal
import subprocess
import sys
import time

CHILD = """
import os, signal, sys, time
from rft_jax.serve.parent import end_with_parent
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
end_with_parent(int(sys.argv[1]))
print("ready", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(1.5)  # a second signal would come meanwhile
open(sys.argv[2], "w").write(str(len(heard)))
"""
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
time.sleep(60)
"""


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_parent_ends_its_child(tmp_path):
    heard = tmp_path / "heard"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(heard)], stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"ready\n"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until(heard.exists)
    until(heard.read_text)
    assert heard.read_text() == "1"


def test_a_parent_that_is_gone_already(tmp_path):
    heard = tmp_path / "heard"
    subprocess.run([sys.executable, "-c", CHILD, "1", str(heard)], check=True, timeout=60)
    assert heard.read_text() == "1"
