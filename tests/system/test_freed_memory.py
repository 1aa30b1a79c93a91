"""Large buffers that a process has freed are the kernel's again."""

import subprocess
import sys

LISTINGS = """
import re, threading
from pathlib import Path
from ringfeedd.system.prctl import return_freed_memory

return_freed_memory()

def held_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

kept = []

def listing():
    for _ in range(4):
        page = bytearray(b"x" * (16 << 20))
        kept.append(bytearray(b"x" * 3000))  # what lies above in the thread's arena keeps the page's memory
        del page

before = held_mib()
for _ in range(8):
    thread = threading.Thread(target=listing)
    thread.start()
    thread.join()
print(held_mib() - before)
"""


def test_large_freed_buffers_go_back_at_once():
    """Without the call the threads' arena keeps 64 MiB."""
    done = subprocess.run([sys.executable, "-c", LISTINGS], capture_output=True, text=True, timeout=100, check=True)
    assert float(done.stdout) < 8
