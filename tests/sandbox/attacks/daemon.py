# A double-forked daemon in a session of its own dies with its case.
# run: stdin
# limits: processes=8
# expect: ok
# observe: stdout is started
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        while True:
            time.sleep(0.01)
    os._exit(0)
os.wait()
print("started")
