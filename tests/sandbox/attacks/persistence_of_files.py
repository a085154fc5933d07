# A file of one case is not there in the next, nor in the next run, wherever it was put.
# run: stdin
# cases: 3
# expect: ok
# observe: stdout is [] []
import os
print([name for name in os.listdir("/dev/shm") if name != ".stdin"], [name for name in os.listdir("/tmp") if name != ".stdin"])
for number, place in enumerate(("/dev/shm", "/tmp", "/var/tmp", "/run")):
    try:
        open(f"{place}/openqwq_mark{number}", "w").write("x")
        os.mkdir(f"{place}/openqwq_mark_dir{number}", 0)
    except OSError:
        pass
