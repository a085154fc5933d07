# No message can carry a descriptor.
# run: stdin
# expect: runtime_error
# observe: stderr has Operation not permitted
import socket
near, far = socket.socketpair()
socket.send_fds(near, [b"x"], [0])
