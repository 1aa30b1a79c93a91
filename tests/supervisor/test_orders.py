"""Orders from outside: what signals do to a process that is about to end."""

import subprocess
import sys

STOPPED = """
import asyncio, os, signal, threading
from ringfeedd.worker.launcher import ORDERS
from ringfeedd.supervisor.signals import obey

async def run():
    heard = asyncio.Event()
    with obey(stop=lambda name: heard.set(), refresh=heard.set):
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # it holds no signal back
        os.kill(os.getpid(), signal.SIGTERM)
        await heard.wait()
    for number in ORDERS:
        os.kill(os.getpid(), number)

signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
asyncio.run(run())
"""


def test_orders_after_the_stop_come_to_nothing():
    """Also where a thread is left that could take them."""
    ended = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
