# A stopped process is no way around the clock.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
