# No better place in the queue, and no other processor.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
for call in ((141, 0, 0, -20), (144, 0, 1, bytes(4)), (203, 0, 8, bytes(8)), (314, 0, bytes(56), 0), (251, 1, 0, 0)):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
