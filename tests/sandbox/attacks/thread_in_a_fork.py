# Threads that fork, and forks that start threads, are all counted and all ended.
# run: stdin
# limits: processes=4 wall_seconds=2.0
# expect: ok timeout
import os, threading, time
def grow():
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
                threading.Thread(target=grow, daemon=True).start()
                time.sleep(60)
        except (OSError, RuntimeError):
            time.sleep(0.01)
for _ in range(20):
    try:
        threading.Thread(target=grow, daemon=True).start()
    except RuntimeError:
        break
time.sleep(0.5)
