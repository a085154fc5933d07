# The trusted script cannot be killed or stopped into a pass.
# judge: script
# limits: processes=4 wall_seconds=1.5
import os, signal
def f(x):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        for pid in (-1, *range(1, 30)):
            if pid != os.getpid():
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
