"""While a hundred logins with argon2 run, the reactor's thread stays free for everybody else."""

import json
import subprocess
import sys

import pytest
from argon2 import PasswordHasher

PROGRAM = """
import json, sys
from pathlib import Path
from time import monotonic
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.task import LoopingCall
from mailgw.house import SystemClock
from mailgw.login.password_file import PasswordFile

file = PasswordFile(Path(sys.argv[1]), threads=reactor, steady=reactor, clock=SystemClock())
ticks = []
ticking = LoopingCall(lambda: ticks.append(monotonic()))

def over(results):
    file.close()
    reactor.stop()
    gaps = sorted(later - earlier for earlier, later in zip(ticks, ticks[1:]))
    answers = [result if succeeded else result.type.__name__ for succeeded, result in results]
    seen = {"took": ticks[-1] - ticks[0], "ticks": len(ticks), "p95": gaps[len(gaps) * 95 // 100], "longest": gaps[-1]}
    print(json.dumps(seen | {"answers": answers}))

def start():
    ticking.start(0.001)
    asked = [file.requestAvatarId(UsernamePassword("anna", password)) for password in ("geheim", "wrong") * 50]
    DeferredList([ensureDeferred(one) for one in asked], consumeErrors=True).addCallback(over)

reactor.callWhenRunning(start)
reactor.run()
"""


@pytest.mark.live
def test_a_hundred_logins_with_argon2(tmp_path):
    hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
    (tmp_path / "users").write_text(f"anna:{hasher.hash('geheim')}\n")
    (tmp_path / "users").chmod(0o600)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "users")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen.pop("answers") == ["anna", "UnauthorizedLogin"] * 50
    # On the reactor's thread there would be one tick for each login, or none. The longest gap depends on what else the machine does.
    assert seen["ticks"] > 200
    assert seen["p95"] < 0.03, seen
