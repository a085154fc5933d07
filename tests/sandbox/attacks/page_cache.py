# What the host has in its page cache can be neither read off, nor filled, nor dropped.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, os
libc, found = ctypes.CDLL(None, use_errno=True), set()
file = os.open(os.__file__, os.O_RDONLY)
room = ctypes.create_string_buffer(8192)
address = ctypes.c_void_p((ctypes.addressof(room) + 4095) & ~4095)
for call in ((27, address, 4096, room), (187, file, 0, 4096), (221, file, 0, 0, 4), (221, file, 0, 0, 3), (277, file, 0, 0, 7), (306, file), (162,), (451, file, 0, 0, 0)):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
