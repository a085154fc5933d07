# Ignoring SIGXCPU leaves the hard limit.
# run: stdin
# limits: wall_seconds=30.0 cpu_seconds=1.0
# expect: timeout
# observe: error has CPU
import signal
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
while True:
    pass
