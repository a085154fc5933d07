# The x32 numbers are closed too.
# run: stdin
# expect: ok
# observe: stdout is 0
import ctypes
libc = ctypes.CDLL(None)
print(sum(libc.syscall(0x40000000 | number, 0, 0, 0) != -1 for number in range(600)))
