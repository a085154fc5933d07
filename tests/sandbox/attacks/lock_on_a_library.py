# No lock is held on a file that the host uses too.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout runtime_error
# observe: host unlocked
import fcntl, os, time
file = os.open("/usr/lib/os-release" if os.path.exists("/usr/lib/os-release") else os.__file__, os.O_RDONLY)
fcntl.flock(file, fcntl.LOCK_EX)
time.sleep(60)
