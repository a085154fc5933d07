# No flags, attributes or layout of files can be changed, of its own or of the host's.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, os
libc, found = ctypes.CDLL(None, use_errno=True), set()
open("own", "w").close()
for path in ("own", os.__file__):
    file = os.open(path, os.O_RDONLY)
    for request in (0x40086602, 0x80086601, 0xC020660B, 0x40049409, 0x80045430, 0x541B0000, 0x125E, 0xC0186679):
        found.add(errno.errorcode[ctypes.get_errno()] if libc.ioctl(file, ctypes.c_ulong(request), bytes(64)) == -1 else hex(request))
    for call in ((188, path.encode(), b"user.mark", b"x", 1, 0), (190, file, b"user.mark", b"x", 1, 0), (191, path.encode(), b"user.mark", bytes(8), 8), (194, path.encode(), bytes(8), 8), (92, path.encode(), 1000, 1000), (93, file, 1000, 1000)):
        found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
