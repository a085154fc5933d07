# No module, clock, host name, swap, reboot, log, port, quota or personality.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
for number in (103, 135, 153, 154, 159, 163, 164, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 203, 227, 246, 305, 313, 320):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(number, 0, 0, 0, 0) == -1 else number)
print(*found)
