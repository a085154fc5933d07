# Kernel memory in pipes is bounded by the number of open files.
# run: stdin
# expect: ok
# observe: stdout is EMFILE
import errno, fcntl, os
try:
    while True:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2**20)
        except PermissionError:
            pass
        try:
            while True:
                os.write(writer, bytes(2**16))
        except BlockingIOError:
            pass
except OSError as error:
    print(errno.errorcode[error.errno])
