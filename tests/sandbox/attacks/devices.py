# No device but three, and none can be made.
# run: stdin
# expect: ok
# observe: stdout is ['/dev/null', '/dev/urandom', '/dev/zero']
import os, stat
for number, mode in ((1, stat.S_IFCHR), (5, stat.S_IFCHR), (0, stat.S_IFBLK), (0, stat.S_IFIFO)):
    try:
        os.mknod(f"node{number}", mode | 0o666, os.makedev(1, number))
        print("made", number)
    except OSError:
        pass
found = []
for name in ("mem", "kmsg", "tty", "console", "ptmx", "fuse", "kvm", "sda", "vda", "net/tun", "null", "urandom", "zero"):
    try:
        os.close(os.open("/dev/" + name, os.O_RDONLY))
        found.append("/dev/" + name)
    except OSError:
        pass
print(found)
