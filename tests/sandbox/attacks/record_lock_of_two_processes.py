# A program of several processes is told that there are no locks, and does not take one for granted.
# run: stdin
# limits: processes=4
# expect: ok
# observe: stdout is ENOLCK ENOLCK EPERM
import errno, fcntl, struct
file = open("lock", "wb")
for command in (fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK):
    try:
        print(fcntl.fcntl(file, command, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
    except OSError as error:
        print(errno.errorcode[error.errno])
