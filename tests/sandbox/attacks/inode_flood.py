# Empty files stop at a number.
# run: stdin
# expect: runtime_error
# observe: stderr has No space left
for number in range(10**6):
    open(f"openqwq_mark{number}", "w").close()
