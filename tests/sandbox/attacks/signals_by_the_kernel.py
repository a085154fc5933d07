# Nor by way of SIGIO.
# judge: script
import fcntl, os, signal, socket
def f(x):
    for pid in range(1, 30):
        for number in (signal.SIGKILL, signal.SIGTERM):
            near, far = socket.socketpair()
            try:
                fcntl.fcntl(near, fcntl.F_SETOWN, pid)
                fcntl.fcntl(near, 10, number)
                fcntl.fcntl(near, fcntl.F_SETFL, os.O_ASYNC)
                if pid != os.getpid():
                    far.send(b"x")
            except OSError:
                pass
    return True
