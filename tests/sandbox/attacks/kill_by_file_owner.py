# The kernel sends no signal to others for the program either (F_SETOWN, F_SETSIG, O_ASYNC).
# run: stdin
# expect: ok
# observe: stdout is sent
import fcntl, os, socket
for pid in (1, -1):
    near, far = socket.socketpair()
    fcntl.fcntl(near, fcntl.F_SETOWN, pid)
    fcntl.fcntl(near, 10, 15)
    fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if pid == 1:
        far.send(b"x")
print("sent")
