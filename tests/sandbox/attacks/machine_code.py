# System calls made by instructions of its own meet the same list.
# run: stdin
# expect: ok
# observe: stdout is -1 -1 -1
import ctypes, mmap
for number in (59, 41, 57):  # execve, socket, fork
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # xor esi, esi; xor edx, edx; xor edi, edi; mov eax, number; syscall; ret
    code.write(b"\x31\xf6\x31\xd2\x31\xff\xb8" + number.to_bytes(4, "little") + b"\x0f\x05\xc3")
    print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
