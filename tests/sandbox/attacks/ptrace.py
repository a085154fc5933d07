# No process can be traced.
# run: stdin
# expect: ok
# observe: stdout is EPERM EPERM EPERM
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
for request, pid in ((0, 0), (16, 1), (0x4206, json.load(sys.stdin)["pid"])):
    if libc.syscall(101, request, pid, 0, 0) == -1:
        print(errno.errorcode[ctypes.get_errno()])
