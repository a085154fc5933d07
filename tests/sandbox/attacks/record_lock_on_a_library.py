# No record lock is held on a file that the host uses too, and none blocks a run.
# run: stdin
# limits: wall_seconds=1.0
# expect: timeout
# observe: host unlocked
import fcntl, os, struct, time
file = os.open("/usr/lib/os-release" if os.path.exists("/usr/lib/os-release") else os.__file__, os.O_RDONLY)
for command in (6, 7, 37, 38, 1024, 1033):  # F_SETLK, F_SETLKW, those of open files, a lease, seals
    try:
        fcntl.fcntl(file, command, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
    except OSError:
        pass
time.sleep(60)
