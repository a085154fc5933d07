# Threads stop at the limit.
# run: stdin
# expect: runtime_error timeout
# limits: wall_seconds=2.0
# observe: stderr has can't start new thread
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
