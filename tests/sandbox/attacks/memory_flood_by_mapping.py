# Mapped memory counts too, shared or not.
# run: stdin
# expect: ok
# observe: stdout is ENOMEM ENOMEM
import errno, mmap
for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
    try:
        mmap.mmap(-1, 2**40, flags | mmap.MAP_ANONYMOUS)
    except OSError as error:
        print(errno.errorcode[error.errno])
