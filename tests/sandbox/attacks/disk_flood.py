# Files stop at the size of the private file system.
# run: stdin
# expect: runtime_error
# observe: stderr has No space left
for number in range(100):
    open(f"openqwq_mark{number}", "wb").write(bytes(2**22))
