# Signals to itself, as fast as timers make them, do not outlive the case or hold up its end.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
import signal
for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU, signal.SIGTERM, signal.SIGIO):
    signal.signal(number, lambda *_: None)
for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
    signal.setitimer(timer, 1e-6, 1e-6)
while True:
    signal.raise_signal(signal.SIGTERM)
