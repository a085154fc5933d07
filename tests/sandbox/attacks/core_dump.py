# A crash hands nothing to the host's crash handler: the process is marked as not to be dumped.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
# observe: host undumpable
import time
time.sleep(60)
