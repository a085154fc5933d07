# There is no /proc or /sys, and none can be mounted.
# run: stdin
# expect: ok
# observe: stdout is
import ctypes
ctypes.CDLL(None).mount(b"proc", b"/tmp", b"proc", 0, None)
for root in ("/proc", "/tmp", "/sys", "/dev/fd"):
    for name in ("1/environ", "self/mem", "self/fd/3", "kernel", "3", "mounts"):
        try:
            print(open(f"{root}/{name}", "rb").read())
        except OSError:
            pass
