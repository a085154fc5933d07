# Ignoring every signal does not outlast the clock.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(60)
