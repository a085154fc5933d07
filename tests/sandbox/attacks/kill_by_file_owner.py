# The kernel sends no signal to others for the program either (F_SETOWN, F_SETSIG, O_ASYNC).
# run: stdin
# expect: ok
# observe: stdout is PermissionError PermissionError
import fcntl, os, socket
for pid in (1, -1):
    near, far = socket.socketpair()
    try:
        fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        fcntl.fcntl(near, fcntl.F_SETOWN, pid)
        fcntl.fcntl(near, 10, 15)
        far.send(b"x")
    except OSError as error:
        print(type(error).__name__)
