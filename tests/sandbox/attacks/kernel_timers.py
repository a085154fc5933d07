# No timers or events that the kernel keeps, and no wake-up of the machine.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
for call in ((222, 0, 0, bytes(8)), (222, 8, 0, bytes(8)), (283, 1, 0), (282, -1, bytes(8), 8, 0), (289, -1, bytes(8), 8, 0), (284, 0), (206, 4, bytes(8))):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
