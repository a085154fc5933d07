# A child that keeps the output open does not delay the verdict.
# run: stdin
# limits: processes=8 wall_seconds=5.0
# expect: ok
# observe: stdout is started
import os, signal, time
if os.fork() == 0:
    os.setsid()
    for number in (1, 2, 3, 15):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(60)
print("started")
