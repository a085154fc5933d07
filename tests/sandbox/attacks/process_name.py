# A process that crashes has its own name in the kernel's log, and not bytes of the program's choice.
# run: stdin
# expect: crashed
# observe: stdout is -1 python
import ctypes, re
libc = ctypes.CDLL(None)
name = ctypes.create_string_buffer(16)
renamed = libc.prctl(15, b"\x1b[2J\nowned", 0, 0, 0)
libc.prctl(16, name, 0, 0, 0)
print(renamed, re.match("[a-z]*", name.value.decode())[0], flush=True)
ctypes.string_at(0)
