# No memory is locked, moved to another node, or taken in huge or secret pages.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno
libc, found = ctypes.CDLL(None, use_errno=True), set()
room = ctypes.create_string_buffer(4096)
for call in ((149, room, 4096), (151, 3), (325, room, 4096, 1), (237, room, 4096, 1, None, 0, 0), (238, 1, None, 0), (256, 0, 0, None, None), (279, 0, 0, None, None, None, 0), (216, room, 4096, 0, 0, 0), (447, 0), (440, -1, None, 0, 0, 0), (448, -1, 0)):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
print(*found)
