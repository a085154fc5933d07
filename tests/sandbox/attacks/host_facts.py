# How much memory, load and disk the host has, and for how long it has run, is not told by a call.
# run: stdin
# expect: ok
# observe: stdout is EPERM
import ctypes, errno, os
libc, found = ctypes.CDLL(None, use_errno=True), set()
room = ctypes.create_string_buffer(512)
for call in ((99, room), (137, b"/usr/lib", room), (137, b"/tmp", room), (138, 0, room), (136, 0, room), (103, 3, room, 512)):
    found.add(errno.errorcode[ctypes.get_errno()] if libc.syscall(*call) == -1 else call[0])
for path in ("/proc/meminfo", "/proc/cpuinfo", "/proc/uptime", "/proc/self/mountinfo", "/sys/devices", "/etc/hostname", "/etc/machine-id"):
    if os.path.exists(path):
        found.add(path)
print(*found)
