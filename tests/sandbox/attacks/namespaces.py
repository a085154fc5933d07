# No namespace can be made or joined.
# run: stdin
# limits: processes=4
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    calls = ((272, flag), (308, 0, flag)) + (((56, flag | 17, 0, 0, 0, 0),) if flag > 0x80 else ())
    for call in calls:
        found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call)
print(*found)
