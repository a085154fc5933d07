# kill(-1) ends nothing but the program's own processes.
# run: stdin
# limits: processes=8 wall_seconds=5.0
# expect: ok crashed runtime_error
import os, signal, time
if os.fork() == 0:
    time.sleep(60)
os.kill(-1, signal.SIGKILL)
