# Pages are not moved between pipes and files, and no file is copied or laid out by the kernel.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, os
libc, found = ctypes.CDLL(None, use_errno=True), set()
reader, writer = os.pipe()
file = os.open(os.__file__, os.O_RDONLY)
own = os.open("own", os.O_RDWR | os.O_CREAT)
for call in ((275, file, None, writer, None, 4096, 0), (276, reader, writer, 4096, 0), (278, writer, bytes(16), 1, 0), (326, file, None, own, None, 4096, 0), (285, own, 0, 0, 2**40)):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
